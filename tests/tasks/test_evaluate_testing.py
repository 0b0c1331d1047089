"""Which weights a run is tested with: the best or the last, said and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.runs import RunFolder
from lrflow.tasks import evaluate, train

# The fixture `spoilt` makes the weights noise after step 12: the best are not the last, in either direction.
RUN = [
    "model=mlp", "model.widths=[8]", "trainer=cpu", "trainer.progress=false", "trainer.max_steps=20",
    "trainer.val_every=5 steps", "optimizer=sgd", "optimizer.lr=0.1", "trainer.checkpoint.keep=null",
]  # fmt: skip


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on from noise after step 12, so that the last weights are not the best."""
    from lrflow.training.checkpoints import Checkpoints

    save = Checkpoints.on_train_batch_end

    def spoil(self: Any, trainer: Any, module: Any, *rest: Any) -> None:
        save(self, trainer, module, *rest)
        if trainer.global_step == 12:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.copy_(torch.randn_like(parameter))

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", spoil)


@pytest.fixture
def trained(tmp_path: Path, spoilt: None, undrawn: None) -> Callable[..., tuple[RunFolder, dict[str, Any]]]:
    def run(*more: str) -> tuple[RunFolder, dict[str, Any]]:
        done = train.run(compose([*RUN, f"output={tmp_path}", *more]))
        return RunFolder(Path(done["folder"])), done

    return run


def evaluated(folder: RunFolder, *more: str) -> dict[str, float]:
    config = compose([*RUN[:4], "task=evaluate", f"task.from={folder.path}", *more])
    return {name: value for name, value in evaluate.run(config).items() if name != "folder"}


def weights(path: Path) -> Any:
    content = torch.load(path, weights_only=True)
    return content["state_dict"], content["global_step"]


@pytest.mark.parametrize(("monitor", "mode", "best"), [("val/loss", "min", min), ("val/accuracy", "max", max)])
def test_the_best_checkpoint_is_that_of_the_best_validation_in_either_direction(
    monitor: str, mode: str, best: Any, trained: Any
) -> None:
    folder, _ = trained(f"trainer.checkpoint.monitor={monitor}", f"trainer.checkpoint.mode={mode}", "task.test=false")
    rows = [line.split(",") for line in folder.metrics.read_text().splitlines()]
    column = rows[0].index(monitor)
    values = {int(row[0]): float(row[column]) for row in rows[1:] if row[column]}
    wanted = best(values, key=values.__getitem__)
    assert wanted != max(values), "the best is not the last"
    state, step = weights(folder.checkpoints / "best.ckpt")
    assert step in (wanted, wanted + 1)
    saved, _ = weights(folder.checkpoints / f"step-{step:07d}.ckpt")
    assert all(torch.equal(state[name], saved[name]) for name in saved)


@pytest.mark.parametrize("test", ["true", "best", "last", "false"])
def test_a_run_is_tested_with_the_weights_of_task_test(
    test: str, trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, done = trained(f"task.test={test}")
    out, summary = capsys.readouterr().out, folder.read_summary()
    tested = {name: value for name, value in done.items() if name.startswith("test/")}
    if test == "false":
        assert not tested
        assert "tested" not in summary
        return
    which = "last" if test == "true" else test
    other = evaluated(folder, f"task.weights={'best' if which == 'last' else 'last'}")
    assert tested == pytest.approx(evaluated(folder, f"task.weights={which}"))
    assert tested != pytest.approx(other)
    step = weights(folder.checkpoints / "best.ckpt")[1] if which == "best" else 20
    assert step in range(1, 12) or which == "last"
    checkpoint = "checkpoints/best.ckpt" if which == "best" else None
    assert summary["tested"] == {"weights": which, "checkpoint": checkpoint, "step": step}
    assert summary["steps"] == 20
    assert f"tested the {which} weights, of step {step}" in out


def test_evaluations_are_printed_and_recorded_once_each(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = trained("task.test=false")
    last = evaluated(folder)
    assert evaluated(folder, "task.weights=last") == last
    best = evaluated(folder, "task.weights=best")
    assert best != last
    early = folder.checkpoints / "step-0000005.ckpt"
    evaluated(folder, f"task.weights={early}")
    out = capsys.readouterr().out
    assert f"test set, the step-0000005 weights, of step 5 ({early})" in out
    records = json.loads((folder.path / "evaluations.json").read_text())
    assert [record["weights"] for record in records] == ["last", "best", "step-0000005"]
    assert records[0]["metrics"] == last
    assert records[1]["metrics"] == best
    assert records[1]["checkpoint"] == "checkpoints/best.ckpt"
    validated = evaluated(folder, "task.split=val", "task.weights=last")
    assert [*records, {**records[0], "split": "val", "metrics": validated}] == json.loads(
        (folder.path / "evaluations.json").read_text()
    )


def test_best_weights_without_a_monitor_raise_an_error(trained: Any) -> None:
    with pytest.raises(ConfigError, match=r"task\.test = 'best': .*monitor"):
        compose(["task.test=best", "trainer.checkpoint.monitor=null"])
    with pytest.raises(ConfigError, match="true, false, best or last"):
        compose(["task.test=worst"])
    folder, _ = trained("task.test=false", "trainer.checkpoint.monitor=null")
    with pytest.raises(ConfigError, match=r"task\.weights = 'best': .*has no best checkpoint"):
        evaluated(folder, "task.weights=best")


def test_a_run_without_best_weights_is_tested_with_its_last(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = trained("task.test=best", "trainer.limit_val_batches=0")
    assert "no best weights were saved: the last ones are tested" in capsys.readouterr().out
    assert folder.read_summary()["tested"]["weights"] == "last"


def test_a_modules_own_configure_optimizers_is_reported_as_ignored(
    tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_optimizer.py").write_text(
        "import torch\nfrom lrflow.models import Logistic\nfrom lrflow.training import Supervised\n\n\n"
        "class Plain(Supervised):\n    def __init__(self):\n"
        "        super().__init__(Logistic([64], 10), 'cross_entropy')\n\n\n"
        "class Own(Plain):\n    def configure_optimizers(self):\n        raise AssertionError('asked')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LRFLOW_TRUST", "own_optimizer")
    line = "Own.configure_optimizers is ignored: lrflow supplies the optimizer and the schedule"
    for name in ("Own", "Plain"):
        words = [f"output={tmp_path}", "model=custom", f"model._target_=own_optimizer.{name}", "trainer.max_steps=2"]
        train.run(compose(["trainer=cpu", "trainer.progress=false", "task.test=false", *words]))
        assert capsys.readouterr().out.count(line) == (name == "Own")
