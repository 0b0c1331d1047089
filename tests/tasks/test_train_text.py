"""A run on texts, from the files to predictions: killed and resumed, then used without the files."""

from __future__ import annotations

import csv
import json
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from torch.nn import functional

from lrflow.runs import newest_checkpoint
from lrflow.tasks.predict_text import continued
from lrflow.training.checkpoint_file import read_checkpoint

Command = Callable[..., subprocess.CompletedProcess[str]]

LICENSE = Path(sysconfig.get_paths()["stdlib"]) / "LICENSE.txt"
SHORT = ["data=text", "model=transformer", "model.width=16", "model.heads=2", "model.depth=1", "trainer=cpu",
         "trainer.progress=false", "name=run", "data.length=32"]  # fmt: skip


@pytest.fixture
def license(tmp_path: Path) -> Path:
    """The first 6,000 characters of Python's license."""
    path = tmp_path / "license.txt"
    path.write_text(LICENSE.read_text(encoding="utf-8")[:6000], encoding="utf-8")
    return path


@pytest.fixture
def about(tmp_path: Path) -> Path:
    """The paragraphs of three descriptions of scikit-learn, the longer ones in pieces."""
    path = tmp_path / "about.jsonl"
    with path.open("w") as file:
        for name in ("iris", "wine", "diabetes"):
            words = getattr(datasets, f"load_{name}")().DESCR.split()
            for start in range(0, len(words), 20):
                file.write(json.dumps({"text": " ".join(words[start : start + 20]), "about": name}) + "\n")
    return path


@pytest.mark.parametrize("kind", ["language model", "classes"])
def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(
    kind: str,
    lrflow: Command,
    killed: Callable[..., None],
    license: Path,
    about: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    same: Any,
) -> None:
    files = ["data.file=license.txt", "data.tokenizer=characters"]
    files = ["data.file=about.jsonl", "data.target=about", "data.batch_size=8"] if kind == "classes" else files
    own = [*SHORT, *files, "model.dropout=0.1", "trainer.max_steps=14", "trainer.checkpoint.every=2 steps",
           "trainer.val_every=7 steps"]  # fmt: skip
    done = lrflow(*own, "output=whole")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    killed(*own, "output=killed", name="step-*.ckpt", number=4, before=False)  # in the second epoch
    (whole,), (folder,) = (list((tmp_path / output).iterdir()) for output in ("whole", "killed"))
    done = lrflow(*own, "output=killed", f"resume={folder}")
    assert done.returncode == 0, done.stderr
    ends = [read_checkpoint(newest_checkpoint(one)) for one in (whole, folder)]
    for name in ("state_dict", "optimizer_states", "global_step"):
        assert same(ends[0][name], ends[1][name])
    assert same(ends[0]["lrflow"]["preprocessing"], ends[1]["lrflow"]["preprocessing"])
    metrics = [json.loads((one / "summary.json").read_text())["metrics"] for one in (whole, folder)]
    assert metrics[0] == metrics[1]


def test_a_language_model_is_measured_used_and_exported_from_the_run_alone(
    lrflow: Command, license: Path, tmp_path: Path
) -> None:
    own = ["data.file=license.txt", "data.val_size=20%", "trainer.max_epochs=2"]
    done = lrflow(*SHORT, *own, "output=runs", "trainer.log_every=1")
    assert done.returncode == 0, done.stderr
    assert "license.txt: 1 document, cut into parts, 6,001 tokens" in done.stdout
    (run,) = (tmp_path / "runs").iterdir()
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert metrics["val/perplexity"] == pytest.approx(np.exp(metrics["val/loss"]), rel=1e-5)
    assert metrics["val/bits_per_byte"] == pytest.approx(metrics["val/loss"] / np.log(2), rel=1e-5)
    with (run / "metrics.csv").open() as file:
        speeds = [row for row in csv.DictReader(file) if row["throughput/samples_per_second"]]
    for row in speeds:
        ratio = float(row["throughput/tokens_per_second"]) / float(row["throughput/samples_per_second"])
        assert ratio == pytest.approx(32, rel=1e-4)
    assert lrflow("task=predict", "output=runs", "task.split=val", "task.weights=last").returncode == 0
    with (run / "predictions/val-last.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert metrics["val/loss"] == pytest.approx(np.mean(losses), rel=1e-5)

    text = license.read_text()[:100]
    license.unlink()
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in (text, "To be")))
    for more in (
        ["task=predict", "task.inputs=new.jsonl"],
        ["task=predict", "task.prompt=Python", "task.tokens=20"],
        ["task=export", "task.to=torch_export"],
        ["task=export", "task.to=safetensors"],
    ):
        done = lrflow(*more, "output=runs", "task.weights=last")
        assert done.returncode == 0, done.stderr
    with (run / "predictions/new-last.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["tokens"]) for row in rows] == [101, 6]
    graph = torch.export.load(run / "export/last-torch_export/model.pt2").module()
    tokens = torch.tensor([256, *text.encode(), 256])
    total = 0.0
    for start in range(0, 101, 32):  # each window of 32 targets is predicted from itself alone
        piece = tokens[start : start + 33]
        inputs = functional.pad(piece[:-1], (0, 33 - len(piece)))
        logits = graph(inputs.expand(2, -1))[0, : len(piece) - 1]
        total += float(functional.cross_entropy(logits.detach(), piece[1:], reduction="sum"))
    assert float(rows[0]["loss"]) == pytest.approx(total / 101, rel=1e-4)
    assert float(rows[0]["bits_per_byte"]) == pytest.approx(total / 100 / np.log(2), rel=1e-4)
    written = (run / "predictions/prompt-last.txt").read_text()
    assert written.startswith("Python")
    card = json.loads((run / "export/last-torch_export/export.json").read_text())
    assert card["inputs"] == [{"kind": "tokens", "length": 32, "tokenizer": {"kind": "bytes"}, "end": 256,
                               "unknown": None, "padding": None}]  # fmt: skip


def test_classes_are_predicted_by_their_names_with_a_trained_tokenizer_that_is_exported(
    lrflow: Command, about: Path, tmp_path: Path
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    own = ["data.file=about.jsonl", "data.target=about", "data.tokenizer=bpe", "data.vocabulary=600",
           "data.batch_size=8", "trainer.max_epochs=10", "optimizer.lr=0.01"]  # fmt: skip
    done = lrflow(*SHORT, *own, "output=runs")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["metrics"]["val/accuracy"] > 0.4
    shown = [json.loads(line) for line in about.read_text().splitlines()]
    about.unlink()
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in shown))
    assert lrflow("task=predict", "output=runs", "task.inputs=new.jsonl", "task.weights=last").returncode == 0
    with (run / "predictions/new-last.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert np.mean([row["class"] == one["about"] for row, one in zip(rows, shown, strict=True)]) > 0.8
    assert lrflow("task=export", "output=runs", "task.weights=last").returncode == 0
    exported = tokenizers.Tokenizer.from_file(str(run / "export/last-safetensors/tokenizer.json"))
    assert exported.get_vocab_size() == 600
    done = lrflow("task=predict", "output=runs", "task.prompt=Iris")
    assert (done.returncode, "this run is not" in " ".join(done.stderr.split())) == (2, True)


def likeliest(tokens: torch.Tensor) -> torch.Tensor:
    """Logits that prefer the sum of the last two tokens, modulo 7."""
    following = (tokens + functional.pad(tokens, (1, 0))[:, :-1]) % 7
    return functional.one_hot(following, 8).float() * 3


def test_a_continuation_follows_the_model() -> None:
    network: Any = likeliest
    assert continued(network, torch.tensor([1, 1]), 6, 4, temperature=0).tolist() == [2, 3, 5, 1, 6, 0]
    assert continued(network, torch.tensor([1, 1]), 6, 4, temperature=0, end=5).tolist() == [2, 3]
    expected = torch.softmax(likeliest(torch.tensor([[1, 1]]))[0, -1], 0)
    before = torch.get_rng_state()
    drawn = torch.stack([continued(network, torch.tensor([1, 1]), 1, 4, seed=seed)[0] for seed in range(2000)])
    assert float((torch.bincount(drawn, minlength=8) / 2000 - expected).abs().max()) < 0.03
    assert 7 not in continued(network, torch.tensor([1, 1]), 200, 4, temperature=5, never=[7])
    assert torch.equal(before, torch.get_rng_state())
