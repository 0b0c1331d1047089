"""lrflow from Python: the public names, runs as the command line makes them, and every code block of docs/python.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from torch.utils.data import DataLoader, TensorDataset

import lrflow
from lrflow.cli import main

ROOT = Path(__file__).parent.parent
SHORT = ("trainer=cpu", "trainer.max_steps=12", "trainer.progress=false", "model.widths=[8]")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Any:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    yield
    HydraConfig.instance().cfg = None


def test_the_import_is_light_and_every_public_name_exists() -> None:
    code = (
        "import sys, lrflow; assert callable(lrflow.plan); import lrflow.plan; assert callable(lrflow.plan);"
        "print(*{'torch', 'numpy', 'hydra', 'pytorch_lightning', 'pydantic'} & sys.modules.keys(), 'end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["end"], done.stderr
    assert all(callable(getattr(lrflow, name)) for name in lrflow.__all__)
    assert lrflow.plan.Plan is lrflow.Plan  # type: ignore[attr-defined]
    assert set(lrflow.__all__) <= set(dir(lrflow))
    assert (Path(lrflow.__file__).parent / "py.typed").exists()
    told = (ROOT / "docs/python.md").read_text()
    assert [name for name in lrflow.__all__ if f"`{name}" not in told and f"lrflow.{name}" not in told] == []


def test_a_run_is_that_of_the_command_line() -> None:
    assert main([*SHORT, "output=typed"]) == 0
    config = lrflow.compose(*SHORT, "output=called")
    plan = lrflow.plan(config)
    result = lrflow.train(config)
    (typed,) = Path("typed").iterdir()
    summary = json.loads((typed / "summary.json").read_text())
    assert result.metrics == summary["metrics"]
    assert result.plan.fingerprint == plan.fingerprint == lrflow.load(typed).plan.fingerprint
    assert lrflow.plan().fingerprint.startswith("b40c7413f7fc")  # of the default run
    assert result.outcome.status == "finished"
    again = lrflow.train(f"resume={result.folder}", "trainer.max_steps=14", "resume.horizon=rescale")
    assert again.folder == result.folder
    assert again.outcome.steps == 14
    assert lrflow.load(output="called").metrics == again.metrics
    own = torch.load(sorted(result.folder.glob("checkpoints/step-*.ckpt"))[-1], weights_only=True)["state_dict"]
    weights = result.load_model("last").state_dict()
    assert all(torch.equal(own[f"model.{name}"], value) for name, value in weights.items())
    assert not result.model.training


def test_wrong_input_raises_with_all_problems_and_ends_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    config = lrflow.compose(*SHORT)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    wrong = {
        "did you mean optimizer.lr": lambda: lrflow.train("optimizer.lrr=3", "model=mpl"),
        "lrflow.sweep(...) runs a sweep": lambda: lrflow.compose("-m"),
        "needs a sweep": lambda: lrflow.compose("sweep.n_trials=3"),
        "only a job of the command line": lambda: lrflow.train("resume=auto"),
        "existing run folder": lambda: lrflow.load("nowhere"),
        "compose the config with task=find": lambda: lrflow.find(config),
        "they would run this whole program": lambda: lrflow.train("trainer=cpu", "trainer.devices=2"),
        "the further processes of a run": lambda: lrflow.sweep("seed=0,1", "trainer=cpu", "trainer.devices=2"),
        "lrflow.train does another task": lambda: lrflow.train("task=plan"),
        "only the plan of a module takes it": lambda: lrflow.plan(config, lr=3),
        "the length of the run in optimizer steps": lambda: lrflow.plan(torch.nn.Linear(2, 2)),
        "expected one config": lambda: lrflow.train(config, "optimizer.lr=1"),
        "above 0 and at most 1000": lambda: lrflow.sweep("optimizer.lr=a,b"),
    }
    for message, call in wrong.items():
        with pytest.raises(lrflow.ConfigError) as raised:
            call()
        assert message in str(raised.value)
    with pytest.raises(lrflow.ConfigError) as raised:
        lrflow.train("optimizer.lrr=3", "model=mpl")
    assert len(raised.value.problems) == 2
    unsaved = lrflow.train(*SHORT[:1], "trainer.fast_dev_run=true")
    for read in (lambda: unsaved.config, lambda: unsaved.plan, lambda: unsaved.model):
        with pytest.raises(lrflow.LrflowError, match="fast_dev_run=true writes none"):
            read()
    with pytest.raises(lrflow.LrflowError, match="too high"):
        lrflow.train(*SHORT, "optimizer=sgd", "optimizer.lr=1000", "schedule=constant", "trainer.max_steps=60")
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_every_block_of_the_page_runs(tmp_path: Path) -> None:
    import pytorch_lightning as pl

    class Lit(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 1)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            raise AssertionError("the plan's optimizer takes its place")

    class Scored(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 1)

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
            output = self.layer(inputs)
            return {"loss": (output - labels).square().mean(), "logits": output}

    data = TensorDataset(torch.randn(48, 8), torch.randn(48, 1))
    names: dict[str, Any] = {
        "torch": torch,
        "lit_module": Lit(),
        "hf_model": Scored(),
        "loader": DataLoader(data, 4),
        "examples": [{"inputs": inputs, "labels": labels} for inputs, labels in data],
    }
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.MULTILINE | re.DOTALL):
        if needs := re.search(r"^import (transformers|accelerate)$", block, re.MULTILINE):
            pytest.importorskip(needs[1])
        exec(block, names)
        if "scheduler.step()" in block:
            assert names["scheduler"].last_epoch == names["plan"].horizon.steps
    assert names["trainer"].global_step == 12


def test_the_notebook_runs() -> None:
    text = (ROOT / "docs/python.ipynb").read_text()
    cells = json.loads(text)["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    page = names["plan"]._repr_html_()
    assert "peak never exceeded" in page
    assert "data:image/png;base64," in page
