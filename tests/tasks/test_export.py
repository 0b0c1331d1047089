"""Exports of a run: each is loaded in a process without lrflow, and gives the outputs of the model for the raw data."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

Command = Callable[..., subprocess.CompletedProcess[str]]
RUN = ("recipe=logistic/breast_cancer", "fast=true", "name=run", "output=runs", "trainer=cpu", "trainer.progress=false")

WITHOUT_LRFLOW = """
import sys, numpy, torch
sys.modules["lrflow"] = None
from safetensors.torch import load_file
home, raw = sys.argv[1], torch.from_numpy(numpy.load(sys.argv[2]))
outputs = []
for to, load in (("safetensors", load_file), ("state_dict", torch.load)):
    end = {"safetensors": "safetensors", "state_dict": "pt"}[to]
    network = torch.nn.Sequential()
    network.head = torch.nn.Linear(30, 2)
    network.load_state_dict(load(f"{home}/best-{to}/model.{end}"))
    fitted = load(f"{home}/best-{to}/preprocessing.{end}")
    outputs.append(network(raw * fitted["scale"] + fitted["shift"]))
outputs.append(torch.export.load(f"{home}/best-torch_export/model.pt2").module()(raw))
numpy.save(sys.argv[3], torch.stack(outputs).detach().numpy())
"""


def test_each_export_gives_the_models_outputs_without_lrflow(lrflow: Command, tmp_path: Path) -> None:
    assert lrflow(*RUN).returncode == 0
    (run,) = (tmp_path / "runs").iterdir()
    from lrflow.recipes.logistic.data import BreastCancer

    raw = BreastCancer(batch_size=2).load()[0].inputs[:50].float().numpy()
    np.save("raw.npy", raw)
    for to in ("safetensors", "state_dict", "torch_export"):
        done = lrflow("task=export", "output=runs", f"task.to={to}")
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LRFLOW, str(run / "export"), "raw.npy", "outputs.npy"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Independently: by hand from the checkpoint.
    content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    weights, fitted = content["state_dict"], content["lrflow"]["preprocessing"]["values"]
    inputs = (raw - fitted["_mean"].numpy()) / fitted["_std"].numpy()
    expected = inputs @ weights["model.head.weight"].double().numpy().T + weights["model.head.bias"].numpy()
    for found in np.load("outputs.npy"):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    card = json.loads((run / "export/best-torch_export/export.json").read_text())
    assert card["step"] == content["global_step"]
    assert card["input"] == {"shape": [30], "dtype": "float32"}
    assert card["metrics"] == json.loads((run / "summary.json").read_text())["metrics"]
    assert card["lr"]["steps"] == 5
    assert card["command"] and card["versions"]["torch"]  # noqa: PT018

    saved = (run / "export/best-safetensors/model.safetensors").read_bytes()
    assert lrflow("task=export", f"task.from={run}", "task.weights=best").returncode == 0  # again
    assert (run / "export/best-safetensors/model.safetensors").read_bytes() == saved

    wrong = {
        "task.to=onxx": "did you mean onnx?",
        "task.weights=bst": "did you mean best?",
        "task.from=runs/rn": "existing run folder",
        "resume=last": "does not resume",
        "task.format=onnx": "task.format",
    }
    for word, message in wrong.items():
        done = lrflow("task=export", "output=runs", word)
        assert done.returncode == 2
        assert message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_killed_export_leaves_no_half_file_and_is_made_again(
    lrflow: Command, tmp_path: Path, killed: Callable[..., None]
) -> None:
    assert lrflow(*RUN).returncode == 0
    (run,) = (tmp_path / "runs").iterdir()
    export = run / "export/best-safetensors"
    for name in ("model.safetensors", "export.json"):
        killed("task=export", "output=runs", name=name)
        assert len(list(export.glob(".*.part"))) == 1
    assert lrflow("task=export", "output=runs").returncode == 0
    names = ["export.json", "model.safetensors", "preprocessing.safetensors"]
    assert sorted(one.name for one in export.iterdir()) == names


def test_a_graph_with_other_outputs_is_not_left(
    lrflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lrflow(*RUN).returncode == 0
    load = torch.export.load

    def wrong(path: Any) -> Any:
        network = load(path).module()
        return SimpleNamespace(module=lambda: lambda inputs: network(inputs) + 1)

    monkeypatch.setattr(torch.export, "load", wrong)
    done = lrflow("task=export", "output=runs", "task.to=torch_export")
    assert done.returncode == 1
    assert "outputs of the graph differ from those of the model by up to 1" in " ".join(done.stderr.split())
    assert not list(tmp_path.glob("runs/*/export/*/model.pt2"))


def test_a_missing_package_is_named_with_its_extra(lrflow: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lrflow("fast=true", "output=runs", "trainer=cpu").returncode == 0
    import importlib.util

    find = importlib.util.find_spec
    gone = ("onnx", "onnxscript", "pyarrow")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in gone else find(name, *a))
    needs = {"task=export task.to=onnx": "export", "task=predict task.to=parquet": "parquet"}
    needs["task=predict task.inputs=new.parquet"] = "parquet"
    for words, extra in needs.items():
        done = lrflow(*words.split(), "output=runs")
        assert done.returncode == 2
        assert f"pip install 'lrflow[{extra}]'" in done.stderr


def test_onnx_gives_the_models_outputs(lrflow: Command, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    reference: Any = pytest.importorskip("onnx.reference")
    assert lrflow(*RUN).returncode == 0
    done = lrflow("task=export", "output=runs", "task.to=onnx")
    assert done.returncode == 0, done.stderr
    assert "Skipping torchvision" not in done.stderr
    assert lrflow("task=export", "output=runs", "task.to=torch_export").returncode == 0
    (run,) = (tmp_path / "runs").iterdir()
    inputs = torch.rand(7, 30)
    (found,) = reference.ReferenceEvaluator(str(run / "export/best-onnx/model.onnx")).run(
        None, {"inputs": inputs.numpy()}
    )
    expected = torch.export.load(run / "export/best-torch_export/model.pt2").module()(inputs)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-4)
