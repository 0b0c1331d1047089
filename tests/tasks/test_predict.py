"""Predictions of a run: of its data and of files, in order, and the same after a kill."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import lrflow as library

Command = Callable[..., subprocess.CompletedProcess[str]]
RUN = ("fast=true", "name=run", "output=runs", "trainer=cpu", "trainer.progress=false", "model.widths=[8]")


@pytest.fixture
def run(lrflow: Command, tmp_path: Path) -> Path:
    assert lrflow(*RUN).returncode == 0
    return next((tmp_path / "runs").iterdir())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_predictions_are_those_of_the_model_in_the_order_of_the_data(lrflow: Command, run: Path) -> None:
    assert lrflow("task=predict", "output=runs", "task.to=npz", "data.eval_batch_size=100").returncode == 0
    done = lrflow("task=predict", "output=runs", "task.split=train", "task.weights=last", "data.loader.num_workers=2")
    assert done.returncode == 0, done.stderr
    found = np.load(run / "predictions/test-best.npz")
    result = library.load(run)
    data = data_of(result.config)
    with torch.no_grad():
        expected = result.load_model("best")(data.test_set.tensors[0]).softmax(1)
    np.testing.assert_allclose(found["probability"], expected, rtol=1e-5, atol=1e-7)
    assert found["target"].tolist() == data.test_set.tensors[1].tolist()
    assert (found["class"] == found["probability"].argmax(1)).all()
    accuracy = float((found["class"] == found["target"]).mean())
    # The run tested its last weights, which are also the best.
    assert accuracy == pytest.approx(result.metrics["test/accuracy"], abs=1e-6)
    table = rows(run / "predictions/train-last.csv")
    assert [int(row["target"]) for row in table] == data.train_set.tensors[1].tolist()
    assert [int(row["row"]) for row in table] == list(range(len(table)))
    assert sum(float(table[0][f"probability_{index}"]) for index in range(10)) == pytest.approx(1)


def data_of(config: Any) -> Any:
    from lrflow.assemble import build_data

    data = build_data(config)
    data.setup()
    return data


def test_a_parquet_file_has_the_columns_of_the_table(lrflow: Command, run: Path) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    for to in ("csv", "parquet"):
        assert lrflow("task=predict", "output=runs", f"task.to={to}").returncode == 0
    found = parquet.read_table(run / "predictions/test-best.parquet").to_pydict()
    wanted = rows(run / "predictions/test-best.csv")
    assert [*found] == [*wanted[0]]
    assert found["row"] == [*range(len(wanted))]
    for name, values in found.items():
        np.testing.assert_allclose(values, [float(row[name]) for row in wanted], rtol=1e-6)


def test_files_and_folders_are_predicted_as_they_are_read(lrflow: Command, run: Path, tmp_path: Path) -> None:
    images = load_digits().images[:30].astype(np.float32)
    folder = tmp_path / "images"
    folder.mkdir()
    np.save(folder / "a.npy", images[:10, None])
    np.savez(folder / "b.npz", inputs=images[10:20, None], other=np.zeros(3))
    torch.save(torch.from_numpy(images[20:, None]), folder / "c.pt")
    np.savetxt(
        "flat.csv", images.reshape(30, 64), delimiter=",", header=",".join(f"p{i}" for i in range(64)), comments=""
    )
    for given in ("images", "flat.csv"):
        done = lrflow("task=predict", "output=runs", f"task.inputs={given}")
        assert done.returncode == 0, done.stderr
    whole, flat = rows(run / "predictions/images-best.csv"), rows(run / "predictions/flat-best.csv")
    assert [row["input"] for row in whole] == ["a.npy"] * 10 + ["b.npz"] * 10 + ["c.pt"] * 10
    assert [row["class"] for row in whole] == [row["class"] for row in flat]
    network = library.load(run).load_model("best")
    with torch.no_grad():
        expected = network(data_of(library.load(run).config).normalise(torch.from_numpy(images[:, None])))
    assert [int(row["class"]) for row in whole] == expected.argmax(1).tolist()

    torch.save({"model": torch.nn.Linear(1, 1)}, "object.pt")
    np.save("wide.npy", np.zeros((3, 9)))
    np.save("objects.npy", np.array([{}], dtype=object))
    Path("text.csv").write_text("\n1,2\n\nthree,4\n")
    Path("names.csv").write_text("a,b\n")
    wrong = {
        "imags": "did you mean images?", "wide.npy": "expected inputs of shape examples x 1x8x8, found 3x9",
        "objects.npy": "cannot be read", "object.pt": "plain numbers", "text.csv": "line 4 is not all numbers",
        "names.csv": "has no line of numbers",
        "runs": "has no file of",
    }  # fmt: skip
    for given, message in wrong.items():
        done = lrflow("task=predict", "output=runs", f"task.inputs={given}")
        assert done.returncode == 2, given
        assert message in " ".join(done.stderr.split()), done.stderr
        assert "Traceback" not in done.stderr


def test_a_module_without_a_forward_is_refused(
    lrflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "steps_alone.py").write_text(
        "import pytorch_lightning as pl, torch\n"
        "class Steps(pl.LightningModule):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = torch.nn.Linear(64, 10)\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return torch.nn.functional.cross_entropy(self.net(batch[0].flatten(1)), batch[1])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ("trust=steps_alone", "output=runs")
    assert lrflow("model=custom", "model._target_=steps_alone.Steps", "trainer=cpu", "fast=true", *own).returncode == 0
    told = {"task=predict": "Steps has no forward and no predict_step", "task=export": "Steps has no forward"}
    for task, message in told.items():
        more = ["task.to=torch_export"] if task == "task=export" else []
        done = lrflow(task, "task.weights=last", *more, *own)
        assert done.returncode == 2
        assert message in " ".join(done.stderr.split())
    assert lrflow("task=export", "task.weights=last", *own).returncode == 0


def test_a_killed_prediction_goes_on_after_its_last_chunk(
    lrflow: Command, run: Path, killed: Callable[..., None]
) -> None:
    command = ("task=predict", "output=runs", "task.split=train", "data.eval_batch_size=64", "task.chunk=128")
    assert lrflow(*command).returncode == 0
    path = run / "predictions/train-best.csv"
    whole = path.read_bytes()
    path.unlink()
    parts = path.with_name(".train-best.csv.parts")

    def chunks() -> list[str]:
        return sorted(one.name[6:12] for one in parts.glob("chunk*"))

    killed(*command, name="request.json")
    killed(*command, name="chunk*", number=2, before=False)
    assert chunks() == ["000000", "000001"]
    killed(*command, name="chunk*", number=2)
    assert chunks() == ["000000", "000001", "000002"]
    killed(*command, name=path.name)
    assert not path.exists()
    assert len(list(path.parent.glob("*.part"))) == 1
    killed(*command, name=path.name, before=False)
    assert path.read_bytes() == whole
    done = lrflow(*command)
    count = -(-(len(whole.splitlines()) - 1) // 128)
    assert f"resumes after {count} saved chunks" in done.stdout
    assert path.read_bytes() == whole
    assert [one.name for one in path.parent.iterdir()] == [path.name]

    killed(*command, name="chunk*", number=2)
    other = lrflow(*command[:3], "data.eval_batch_size=32", "task.chunk=128")  # another request starts anew
    assert "resumes after" not in other.stdout
    assert other.returncode == 0
