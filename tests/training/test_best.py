"""The best checkpoints are files of their own, and a resumed run makes them again where a killed one left others."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lrflow.config.checkpoint_names import NamePattern
from lrflow.metric import Metric
from lrflow.training import best as module
from lrflow.training.best import Best
from lrflow.training.checkpoint_file import AtomicCheckpointIO, step_in


def save(path: Path, step: int, best: Best | None = None) -> Path:
    state = {"callbacks": {"of a user": [], "of lrflow": best.state_dict()}} if best else {}
    AtomicCheckpointIO().save_checkpoint({"global_step": step, **state}, path)
    return path


def validated(best: Best, value: float, **others: float) -> bool:
    """Validate; return whether the next checkpoint is one of the best."""
    metrics = {"val/loss": value, **others}
    strategy = SimpleNamespace(broadcast=lambda found: found)
    results = SimpleNamespace(metrics=lambda on_step: {"callback": {}})
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(val_loop=SimpleNamespace(_results=results)))
    given = {"callback_metrics": metrics, "progress_bar_metrics": {}, "is_global_zero": True, "current_epoch": 7}
    return best.improves(SimpleNamespace(strategy=strategy, fit_loop=loop, global_step=1, **given))


@pytest.fixture
def best(tmp_path: Path) -> Best:
    """The best is of step 4."""
    made = Best(tmp_path / "best.ckpt", Metric("val/loss", "min"))
    made.load_state_dict({"best": 0.5, "best_step": 4})
    return made


@pytest.mark.parametrize(
    ("there", "sources", "step", "value", "told"),
    [
        (4, [4], 4, 0.5, ""),
        (4, [], 4, 0.5, ""),
        (2, [2, 4], 4, 0.5, "was of step 2; it is now a copy of step-0000004.ckpt"),
        (None, [4], 4, 0.5, "was missing or damaged; it is now a copy of step-0000004.ckpt"),
        (2, [2], 2, None, "is of step 2, and the best one, of step 4, is gone: the next is the best"),
        (None, [2], None, None, "is missing or damaged, and the best one, of step 4, is gone: the next is the best"),
        (9, [2], 9, 0.5, ""),  # the resumed run makes step 9 again
    ],
)
def test_a_resumed_run_restores_it(
    there: int | None, sources: list[int], step: int | None, value: Any, told: str, best: Best, caplog: Any
) -> None:
    if there:
        save(best.path, there)
    for source in sources:
        save(best.path.with_name(f"step-000000{source}.ckpt"), source)
    best.restore(None)
    assert step_in(best.path) == step
    assert best.value == value
    assert [message.removeprefix(f"{best.path} ") for message in caplog.messages] == ([told] if told else [])


def test_a_damaged_checkpoint_is_no_source(best: Best) -> None:
    source = save(best.path.with_name("step-0000004.ckpt"), 4)
    data = source.read_bytes()
    source.write_bytes(data[:-100] + b"0" + data[-99:])
    best.restore(source)
    assert not best.path.exists()


@pytest.mark.parametrize("is_full", [False, True])
def test_an_earlier_one_stays_where_there_is_no_space(
    is_full: bool, best: Best, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(best.path, 2)
    best.load_state_dict({"best": 0.7, "best_step": 2})
    assert validated(best, 0.5)
    assert best.claim(4, best=True)
    spare = [save(best.path.with_name("2.ckpt"), 2)]
    source = save(best.path.with_name("step-0000004.ckpt"), 4)
    monkeypatch.setattr(module, "copy_whole", full)
    best.write(source, lambda: spare)
    assert (best.value, best.step, step_in(best.path), best.sources) == (0.5, 4, 2, {4})
    assert not spare[0].exists(), "it made room, in vain"
    later = save(best.path.with_name("step-0000006.ckpt"), 6)
    if not is_full:
        monkeypatch.undo()
    best.write(later, list)
    assert (best.value, best.step, step_in(best.path), best.sources) == (0.5, 4, 4, set())
    assert source.exists() == (not is_full), "where there is still no space, it becomes the best itself"


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_of_all_validations_are_kept_also_by_a_resumed_run(mode: Any, tmp_path: Path) -> None:
    draw = random.Random(1)
    metric, pattern = Metric("val/loss", mode), NamePattern.parse("{epoch:02d}_{step}_{val/accuracy:.2f}")
    best = Best(tmp_path / "best.ckpt", metric, 3, pattern)
    seen: list[tuple[float, int]] = []
    for step in range(1, 30):
        value = draw.choice([-0.5, 0.5, draw.random(), float("nan"), float("inf")])
        is_best = validated(best, value, **{"val/accuracy": 0.125})
        seen += [(value if mode == "min" else -value, step)] if abs(value) < 9 else []
        wanted = [at for _, at in sorted(seen)[:3]]
        assert best.claim(step, is_best) == (step in wanted)
        source = save(tmp_path / f"step-{step:07d}.ckpt", step, best)
        if is_best:
            best.write(source, tuple)
        named = {f"07_{at}_0.12.ckpt": at for at in wanted}
        files = [path for path in tmp_path.glob("*.ckpt") if not path.name.startswith("step-")]
        assert {path.name: step_in(path) for path in files} == {**named, **({"best.ckpt": wanted[0]} if wanted else {})}
        state, best = best.state_dict(), Best(best.path, metric, 3, pattern)
        best.load_state_dict(state)
        assert best.step == (wanted[0] if wanted else None)


def test_a_resumed_run_makes_the_named_ones_again_and_deletes_what_was_displaced(tmp_path: Path, caplog: Any) -> None:
    metric = Metric("val/loss", "min")
    best = Best(tmp_path / "best.ckpt", metric, 2)
    for step, value in ((1, 0.3), (2, 0.4), (3, 0.2)):
        assert best.claim(step, validated(best, value))
        source = save(tmp_path / f"step-{step:07d}.ckpt", step, best)
        if step < 3:  # killed before the best are written
            best.write(source, tuple)
    (tmp_path / "my-own.ckpt").write_bytes(b"")
    save(tmp_path / "another.ckpt", 2)
    again = Best(best.path, metric, 2)
    again.load_state_dict(best.state_dict())
    again.restore(source)
    latest = ["step-0000001.ckpt", "step-0000002.ckpt", "step-0000003.ckpt"]
    own = ["another.ckpt", "my-own.ckpt"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(["best-0000001.ckpt", "best-0000003.ckpt", "best.ckpt", *latest, *own])
    assert step_in(best.path) == step_in(tmp_path / "best-0000003.ckpt") == 3

    (tmp_path / "best-0000001.ckpt").unlink()
    branch = Best(tmp_path / "branch" / "best.ckpt", metric, 2)
    branch.path.parent.mkdir()
    branch.load_state_dict(best.state_dict())
    branch.restore(source)
    assert sorted(path.name for path in branch.path.parent.iterdir()) == [
        "best-0000001.ckpt",
        "best-0000003.ckpt",
        "best.ckpt",
    ]
    fewer = Best(best.path, metric)
    fewer.load_state_dict(best.state_dict())
    fewer.restore(source)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == sorted(["best.ckpt", *latest, *own])
    assert (fewer.value, fewer.step) == (0.2, 3)


def test_a_metric_in_the_name_that_is_not_logged_ends_the_run(tmp_path: Path) -> None:
    best = Best(tmp_path / "best.ckpt", Metric("val/loss", "min"), 2, NamePattern.parse("{step}-{val/acuracy}"))
    assert not validated(best, 0.5, **{"val/accuracy": 0.5})
    assert best.missing.key == "trainer.checkpoint.name"
    assert best.missing.hint == "did you mean val/accuracy?"
