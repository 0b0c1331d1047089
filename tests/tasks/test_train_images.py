"""A run on a folder of images, from the files to predictions: killed and resumed, then used without the files."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lrflow.runs import newest_checkpoint
from lrflow.training.checkpoint_file import read_checkpoint

Command = Callable[..., subprocess.CompletedProcess[str]]

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHORT = ["data=images", "data.root=digits", "data.cache=cache", "trainer=cpu", "trainer.progress=false", "name=run"]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """800 digits of scikit-learn as PNG and JPEG files, in a folder for each class."""
    data = load_digits()
    for number, (image, target) in enumerate(zip(data.images[:800], data.target, strict=False)):
        folder = tmp_path / "digits" / NAMES[target]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((image * 15.9).astype(np.uint8)).resize((16, 16))
        picture.save(folder / f"{number}.{('png', 'jpg')[number % 2]}", **({"quality": 95} if number % 2 else {}))
    return tmp_path / "digits"


@pytest.mark.usefixtures("digits")
def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(
    lrflow: Command, killed: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Any
) -> None:
    own = [*SHORT, "model=resnet", "model.width=4", "model.blocks=[1]", "data.size=8", "trainer.max_epochs=3",
           "trainer.checkpoint.every=4 steps", "optimizer=sgd", "optimizer.lr=0.1", "augment=[flip_crop,mixup]",
           "data.sampler=balanced", "model.drop_path=0.5"]  # fmt: skip
    assert lrflow(*own, "output=whole").returncode == 0
    monkeypatch.chdir(tmp_path)
    killed(*own, "output=killed", name="step-*.ckpt", number=4, before=False)  # in the middle of the second epoch
    (whole,), (folder,) = (list((tmp_path / output).iterdir()) for output in ("whole", "killed"))
    assert not (folder / "summary.json").exists() or "metrics" not in (folder / "summary.json").read_text()
    done = lrflow(*own, "output=killed", f"resume={folder}")
    assert done.returncode == 0, done.stderr
    ends = [read_checkpoint(newest_checkpoint(one)) for one in (whole, folder)]
    for name in ("state_dict", "optimizer_states", "global_step"):
        assert same(ends[0][name], ends[1][name])
    assert same(ends[0]["lrflow"]["preprocessing"], ends[1]["lrflow"]["preprocessing"])
    metrics = [json.loads((one / "summary.json").read_text())["metrics"] for one in (whole, folder)]
    assert metrics[0] == metrics[1]


def test_images_are_predicted_and_exported_from_the_run_alone(lrflow: Command, digits: Path, tmp_path: Path) -> None:
    own = [*SHORT, "data.mode=L", "data.size=16", "model=cnn", "model.widths=[16,32]", "trainer.max_epochs=8"]
    done = lrflow(*own, "output=runs")
    assert done.returncode == 0, done.stderr
    assert "digits: 800 images of 16x16 L (train 560, val 120, test 120)" in done.stdout
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["metrics"]["test/accuracy"] > 0.8
    new = tmp_path / "new"
    new.mkdir()
    for path in sorted(digits.glob("*/*"))[::8]:
        shutil.copy(path, new / f"{path.parent.name}-{path.name.upper()}")
    (new / ".hidden.png").touch()
    shutil.rmtree(digits)
    for more in (["task=predict", "task.inputs=new"], ["task=export", "task.to=torch_export"]):
        done = lrflow(*more, "output=runs", "task.weights=last")
        assert done.returncode == 0, done.stderr
    with (run / "predictions/new-last.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["input"] for row in rows] == sorted(path.name for path in new.iterdir() if path.name[0] != ".")
    assert np.mean([row["input"].startswith(row["class"]) for row in rows]) > 0.85
    probabilities = [[float(row[f"probability_{name}"]) for name in sorted(NAMES)] for row in rows]
    assert np.sum(probabilities, 1) == pytest.approx(1, rel=1e-5)
    folder = run / "export/last-torch_export"
    card = json.loads((folder / "export.json").read_text())
    assert card["classes"] == sorted(NAMES)
    assert card["inputs"] == [{"kind": "image", "height": 16, "width": 16, "mode": "L", "fit": "crop"}]
    graph = torch.export.load(folder / "model.pt2").module()
    pictures = np.stack([np.asarray(Image.open(new / row["input"]).convert("L")) for row in rows])[:, None]
    found = graph(torch.from_numpy(pictures)).softmax(1).detach().numpy()
    np.testing.assert_allclose(found, probabilities, rtol=1e-3, atol=1e-5)

    (new / "broken.png").write_text("no image")
    done = lrflow("task=predict", "task.inputs=new", "output=runs")
    assert done.returncode == 2
    assert "new/broken.png" in done.stderr
    assert "is no image that Pillow can read" in " ".join(done.stderr.split())


def test_bad_images_end_a_sweep_before_its_first_job(lrflow: Command, digits: Path, tmp_path: Path) -> None:
    path = digits / "two/2.png"
    path.write_bytes(path.read_bytes()[:-30])
    done = lrflow("-m", *SHORT, "model=cnn", "data.size=8", "optimizer.lr=0.1,0.2")
    assert (done.returncode, "two/2.png: cannot be decoded" in " ".join(done.stderr.split())) == (2, True)
    assert not (tmp_path / "outputs").exists()
