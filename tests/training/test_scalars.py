"""Runs with scalars: the module reads the plan's value of each step, attributes are set, and a resumed run is exact."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import lrflow
from lrflow.errors import ConfigError
from lrflow.tasks import evaluate
from lrflow.training.scalars import Planned, planned_of

MODULE = """
import pytorch_lightning as pl
import torch


class Reads(pl.LightningModule):
    def __init__(self, ask="clip_range"):
        super().__init__()
        self.net, self.ask, self.temperature, self.seen = torch.nn.Linear(64, 10), ask, 1.0, []
        self.drop = torch.nn.Dropout(0.0)

    def training_step(self, batch, index):
        inputs, targets = batch
        value = self.planned(self.ask)
        self.seen.append((self.trainer.global_step, value, self.temperature, self.planned("other", 7)))
        return torch.nn.functional.cross_entropy(self.net(inputs.flatten(1)) / self.temperature, targets) * (1 + value)

    def validation_step(self, batch, index):
        self.log("val/loss", torch.nn.functional.cross_entropy(self.net(batch[0].flatten(1)), batch[1]))
        self.log("val/clip_range", self.planned("clip_range"))
        self.log("val/temperature", self.temperature)
"""
RUN = (
    "trust=scalar_modules", "model=custom", "model._target_=scalar_modules.Reads", "trainer.accelerator=cpu",
    "trainer.max_steps=12", "trainer.max_epochs=null", "trainer.accumulate_grad_batches=2", "task.test=false",
    "trainer.progress=false", "report=false", "health=none", "trainer.log_every=5", "trainer.checkpoint.every=5 steps",
    "trainer.checkpoint.keep=null", "scalars.clip_range={from:0.2,to:0,shape:cosine,start:3 steps}",
    "scalars.temperature={from:2,to:0.5,sets:temperature}", "scalars.temperature.over=50%",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "scalar_modules.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda *more: lrflow.train(*RUN, "output=runs", *more)


def column(folder: Any, name: str) -> list[float]:
    with (Path(folder) / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def weights(folder: Any) -> dict[str, torch.Tensor]:
    content = torch.load(max((Path(folder) / "checkpoints").glob("step-*12.ckpt")), weights_only=True)
    return dict(content["state_dict"])


def test_a_module_reads_each_step_of_the_plan_and_a_resumed_run_is_exact(run: Any, monkeypatch: Any) -> None:
    import scalar_modules  # type: ignore[import-not-found]

    made: list[Any] = []
    build = scalar_modules.Reads.__init__
    monkeypatch.setattr(
        scalar_modules.Reads, "__init__", lambda self, *a, **k: (build(self, *a, **k), made.append(self))[0]
    )
    whole = run().folder
    seen = made[0].seen
    plan = lrflow.plan(*RUN)
    values = {scalar.column: scalar([*range(12)], plan.horizon).tolist() for scalar in plan.scalars}
    assert values["scalar/clip_range"][:4] == [0.2] * 4
    assert len(seen) == 24  # two batches in each step
    for step, clip_range, temperature, other in seen:
        assert (clip_range, temperature) == (values["scalar/clip_range"][step], values["scalar/temperature"][step])
        assert other == 7
    for name, expected in values.items():
        assert column(whole, name) == expected
    first = next((Path(whole) / "checkpoints").glob("step-*05.ckpt"))
    again = run(f"resume={first}").folder
    assert made[-1].seen == seen[10:]
    ours, theirs = weights(whole), weights(again)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for words, expected in (
        ((), values["scalar/temperature"][5]),
        (("scalars.temperature.from=3", "scalars.temperature.to=3"), 3),
    ):
        use = ("task=evaluate", f"task.from={whole}", f"task.weights={first}", "task.split=val", *words)
        measured = evaluate.run(lrflow.compose(*[word for word in RUN if "task." not in word], *use))
        assert measured["val/clip_range"] == pytest.approx(values["scalar/clip_range"][5], rel=1e-6)
        assert measured["val/temperature"] == pytest.approx(expected, rel=1e-6)
    loaded: Any = lrflow.load(whole).load_model(str(first))
    assert loaded.planned("clip_range") == values["scalar/clip_range"][5]
    assert loaded.temperature == values["scalar/temperature"][5]


def test_a_name_that_is_not_in_the_config_is_an_error_that_names_the_nearest(run: Any) -> None:
    with pytest.raises(ConfigError, match=r"scalars.clip_rage(.|\n)*has no such scalar(.|\n)*did you mean clip_range"):
        run("model.ask=clip_rage")


def test_a_scalar_that_nothing_reads_is_a_warning(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    run("scalars.unused=1")
    (message,) = (record.getMessage() for record in caplog.records if "nothing read" in record.getMessage())
    assert message.startswith('nothing read scalars.unused: self.planned("unused")')


@pytest.mark.parametrize(
    ("words", "key", "message"),
    [
        ("scalars.temperature.sets=temperatur", "scalars.temperature.sets", "did you mean temperature?"),
        ("scalars.temperature.sets='*.bais'", "scalars.temperature.sets", "matches no attribute that is a number"),
        ("scalars.temperature.sets='*'", "scalars.temperature.sets", "matches attributes of every name"),
        ("scalars.temperature.sets='*.in_featurs'", "scalars.temperature.sets", "did you mean *.in_features?"),
        ("scalars.temperature.sets=average.decy", "scalars.temperature.sets", "did you mean average.decay?"),
        ("scalars.b={from:1,sets:temp*}", "scalars.b.sets", "temperature is set by scalars.temperature already"),
        ("scalars.b={from:1,sets:temperature}", "scalars.b.sets", "scalars.temperature sets it already"),
        ("trainer.compile=true", "scalars.temperature.sets", "compiled again"),
        ("scalars.b={from:a}", "scalars.b.from", "expected a finite number"),
        ("scalars.b={from:1,to:nan}", "scalars.b.to", "expected a finite number"),
        ("scalars.b={from:1,too:2}", "scalars.b.too", "did you mean scalars.b.to"),
        ("scalars.b={from:1,to:2,shape:cosin}", "scalars.b.shape", "did you mean cosine"),
        ("scalars.b={from:1,shape:cosine}", "scalars.b.to", "to which it moves by shape"),
        ("scalars.b={from:1,warmup_shape:cosine}", "scalars.b.to", "to which it moves by warmup_shape"),
        ("scalars.b=abc", "scalars.b", "expected a number, or a mapping such as {from: 0.2, to: 0}"),
        ("scalars.b={from:1,to:2,shape:{_target_:lrflow.schedules.Step,evry:1}}", "scalars.b.shape.evry", "every"),
        ("scalars.b={from:1,to:2,over:-1}", "scalars.b.over", "negative"),
        ("scalars.b={from:1,to:2,over:20 steps}", "scalars.b.over", "the run has only 12 steps"),
        ("scalars.b={from:0.5,to:3,sets:drop.p}", "scalars.b.to", "expected a number from 0 to 1"),
        ("scalars.b-c={from:1}", "scalars.b-c", "expected a name"),
        ("scalars.b={from:0.5,sets:average.decay}", "scalars.b.sets", "only average=ema has a decay"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_the_run(run: Any, words: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lrflow.plan(*RUN, words)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert message in str(problem)


def test_a_plain_network_cannot_read_a_scalar() -> None:
    with pytest.raises(ConfigError, match=r"scalars.b.sets(.|\n)*lrflow.models.MLP does not call self.planned"):
        lrflow.compose("scalars.b=1")


def test_label_smoothing_dropout_and_the_decay_of_an_average_move(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "trainer.accelerator=cpu", "trainer.max_steps=6", "trainer.max_epochs=null", "task.test=false", "report=false",
        "trainer.progress=false", "health=none", "model.dropout=0.1", "average=ema", "output=runs", "optimizer=sgd",
        "scalars.smoothing={from:0.2,to:0.1,sets:loss.label_smoothing}", 'scalars.p={from:0.5,to:0,sets:"*.p"}',
        "scalars.memory={from:0,to:0.9,sets:average.decay}",
    ]  # fmt: skip
    seen: list[tuple[float, ...]] = []
    from lrflow.training.averaging import WeightAverages
    from lrflow.training.module import Supervised

    step, update = Supervised.training_step, WeightAverages.update
    shares: list[float] = []

    def spying(self: Any, batch: Any, index: int) -> Any:
        dropouts = {one.p for one in self.modules() if isinstance(one, torch.nn.Dropout)}
        seen.append((self.loss.function.label_smoothing, *dropouts))
        return step(self, batch, index)

    def updating(self: Any, at: int, decay: Any = None) -> None:
        shares.append(decay)
        update(self, at, decay)

    monkeypatch.setattr(Supervised, "training_step", spying)
    monkeypatch.setattr(WeightAverages, "update", updating)
    lrflow.train(*words)
    plan = lrflow.plan(*words)
    values = {scalar.name: scalar([*range(6)], plan.horizon).tolist() for scalar in plan.scalars}
    assert seen == list(zip(values["smoothing"], values["p"], strict=True))
    assert shares == values["memory"]


def test_reading_before_a_run_gives_the_first_value() -> None:
    planned = Planned({"a": 0.5}, used=["a"])
    assert (planned("a"), planned("b", None), planned.unread) == (0.5, None, ())
    assert planned_of(torch.nn.Linear(1, 1)) is None
