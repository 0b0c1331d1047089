"""Averages of the weights equal closed forms of the recorded weights, are what is evaluated, and resume exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lrflow.cli import main
from lrflow.config import compose
from lrflow.plan.averaging import WIDEST, Averaging, exponent_of
from lrflow.tasks import train as train_task
from lrflow.training.checkpoint_file import read_checkpoint

STEPS = 21
KINDS = {
    "ema": Averaging("ema", 1, 1, STEPS, decay=0.9),
    "ema, warmed up, later": Averaging("ema", 4, 1, STEPS, decay=0.8, warmup=True),
    "swa": Averaging("uniform", 9, 3, STEPS),
    "tail": Averaging("uniform", 15, 1, STEPS),
    "power": Averaging("power", 1, 1, STEPS, widths=(0.1, 0.2)),
}
SHORT = ["model.widths=[8]", "trainer=cpu", "trainer.max_steps=8", "trainer.progress=false", "data.batch_size=128"]
SHORT += ["trainer.checkpoint.every=4 steps", "trainer.checkpoint.keep=null"]


class Weights(pl.Callback):
    """Records the trained weights after each step, in double precision; and torch's own average of them."""

    def __init__(self, decay: float = 0.9) -> None:
        self.all: list[dict[str, torch.Tensor]] = []
        self.decay = decay
        self.torch: AveragedModel | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.torch = AveragedModel(pl_module.model, multi_avg_fn=get_ema_multi_avg_fn(self.decay))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        assert self.torch is not None
        self.all.append({name: one.detach().double().clone() for name, one in pl_module.named_parameters()})
        self.torch.update_parameters(pl_module.model)


def shares(averaging: Averaging, width: float | None = None) -> np.ndarray:
    """The share of the weights after each step in the average at the end, written down independently of the code."""
    steps = np.arange(1, STEPS + 1)
    entering = [step for step in steps if step >= averaging.first and step % averaging.every == 0]
    found = np.zeros(STEPS)
    if averaging.kind == "uniform":
        found[np.array(entering) - 1] = 1 / len(entering)
    elif averaging.kind == "power":
        power = exponent_of(width or averaging.widths[0]) + 1
        found = (steps**power - (steps - 1) ** power) / STEPS**power  # the profile t^gamma over each step
    else:
        for age, step in enumerate(reversed(entering)):
            index = len(entering) - 1 - age
            keeps = [min(averaging.decay, (1 + k) / (10 + k)) if averaging.warmup else averaging.decay
                     for k in range(1, len(entering))]  # fmt: skip
            own = 1.0 if index == 0 else 1 - keeps[index - 1]
            found[step - 1] = own * np.prod(keeps[index:])
    return found


def expected(recorded: list[dict[str, torch.Tensor]], weights: np.ndarray) -> dict[str, torch.Tensor]:
    return {
        name: sum(float(share) * one[name] for share, one in zip(weights, recorded, strict=True))
        for name in recorded[0]
    }  # type: ignore[misc]


def assert_close(found: dict[str, Any], wanted: dict[str, torch.Tensor]) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return {}


@pytest.fixture
def whole(kept: dict[str, Any], train: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """An uninterrupted run of each kind, and the weights that it went through."""

    def get(kind: str) -> Any:
        if kind not in kept:
            record = Weights()
            run = train(
                tmp_path_factory.mktemp("run"), averaging=KINDS.get(kind), save_every="1 step", callbacks=[record]
            )
            kept[kind] = run, record
        return kept[kind]

    return get


class TestClosedForms:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_module_ends_with_the_average(self, kind: str, whole: Any) -> None:
        run, record = whole(kind)
        weights = shares(KINDS[kind])
        assert weights.sum() == pytest.approx(1)
        assert_close(dict(run.module.named_parameters()), expected(record.all, weights))

    def test_an_ema_equals_that_of_torch_bit_for_bit(self, whole: Any) -> None:
        run, record = whole("ema")
        assert equal(dict(run.module.model.named_parameters()), dict(record.torch.module.named_parameters()))

    def test_every_width_is_kept(self, whole: Any) -> None:
        run, record = whole("power")
        averages = read_checkpoint(run.newest)["lrflow"]["average"]["averages"]
        for width, average in zip((0.1, 0.2), averages, strict=True):
            assert_close(average, expected(record.all, shares(KINDS["power"], width)))

    @pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, WIDEST])
    def test_the_profile_of_a_power_has_its_width(self, width: float) -> None:
        times = (np.arange(2_000_000) + 0.5) / 2_000_000
        profile = times ** exponent_of(width)
        profile /= profile.sum()
        assert np.sqrt((profile * times**2).sum() - (profile * times).sum() ** 2) == pytest.approx(width, rel=1e-4)


class TestARun:
    @pytest.mark.parametrize("kind", KINDS)
    def test_trains_as_without_an_average(self, kind: str, whole: Any) -> None:
        (run, record), (plain, alone) = whole(kind), whole("none")
        assert run.column("train/loss") == plain.column("train/loss")
        assert all(equal(one, other) for one, other in zip(record.all, alone.all, strict=True))
        training = read_checkpoint(run.newest)["lrflow"]["training"]
        assert_close(training, {name: one for name, one in alone.all[-1].items() if name in training})

    def test_validates_the_average_with_statistics_of_its_own(self, whole: Any) -> None:
        run, record = whole("ema")
        network = record.torch.module
        for name, value in read_checkpoint(run.newest)["state_dict"].items():
            if "running" in name:
                network.state_dict()[name.removeprefix("model.")].copy_(value)
        network.eval()
        inputs, targets = (torch.cat(parts) for parts in zip(*run.data.val_dataloader(), strict=True))
        with torch.no_grad():
            loss = functional.cross_entropy(network(inputs), targets)
        assert run.column("val/loss")[-1] == pytest.approx(float(loss), rel=1e-5)
        assert "model.body.1.running_mean" in read_checkpoint(run.newest)["lrflow"]["training"]

    def test_evaluates_its_weights_until_the_average_begins(self, whole: Any) -> None:
        (run, _), (plain, _) = whole("tail"), whole("none")
        assert run.column("val/loss")[:2] == plain.column("val/loss")[:2]
        assert run.column("val/loss")[2] != plain.column("val/loss")[2]

    def test_that_does_not_evaluate_the_average_keeps_it(self, train: Any, whole: Any, tmp_path: Path) -> None:
        run = train(tmp_path, averaging=Averaging("ema", 1, 1, STEPS, False, 0.9))
        (plain, _), (averaged, _) = whole("none"), whole("ema")
        assert run.rows() == plain.rows()
        assert equal(run.weights, plain.weights)
        (kept,) = read_checkpoint(run.newest)["lrflow"]["average"]["averages"]
        assert equal(kept, dict(averaged.module.named_parameters()))

    def test_holds_each_average_once_in_a_file(self, whole: Any) -> None:
        content = read_checkpoint(whole("ema")[0].newest)
        (average,) = content["lrflow"]["average"]["averages"]
        for name, value in average.items():
            assert content["state_dict"][name].untyped_storage().data_ptr() == value.untyped_storage().data_ptr()


class TestResume:
    @pytest.mark.parametrize(("kind", "cut"), [*((kind, 13) for kind in KINDS), ("ema", 1), ("tail", 18)])
    def test_a_run_resumes_exactly(self, kind: str, cut: int, train: Any, whole: Any, tmp_path: Path) -> None:
        reference, _ = whole(kind)
        options = {"averaging": KINDS[kind], "save_every": "1 step"}
        broken = train(tmp_path, interrupt=cut, **options)
        run = train(tmp_path, resume=broken.newest, **options)
        assert run.rows() == reference.rows()
        assert equal(run.weights, reference.weights)
        one, other = read_checkpoint(run.newest), read_checkpoint(reference.newest)
        ours, theirs = (content["lrflow"]["average"] for content in (one, other))
        assert (ours["entered"], ours["continues"]) == (theirs["entered"], theirs["continues"])
        assert all(equal(*averages) for averages in zip(ours["averages"], theirs["averages"], strict=True))
        assert equal(one["lrflow"]["training"], other["lrflow"]["training"])

    def test_without_the_average_training_goes_on_at_its_own_weights(
        self, train: Any, whole: Any, tmp_path: Path
    ) -> None:
        plain, _ = whole("none")
        broken = train(tmp_path, interrupt=13, averaging=KINDS["ema"], save_every="1 step")
        assert equal(train(tmp_path, resume=broken.newest).weights, plain.weights)

    def test_another_average_begins_anew(self, train: Any, whole: Any, tmp_path: Path, caplog: Any) -> None:
        broken = train(tmp_path, interrupt=18, averaging=KINDS["ema"], save_every="1 step")
        run = train(tmp_path, resume=broken.newest, averaging=KINDS["tail"])
        assert "the average of the weights so far is dropped: another one is configured now" in caplog.text
        recorded = whole("none")[1].all
        assert_close(dict(run.module.named_parameters()), expected(recorded[18:], np.full(3, 1 / 3)))

    def test_a_run_that_ends_before_its_average_begins_says_so(self, train: Any, tmp_path: Path, caplog: Any) -> None:
        train(tmp_path, max_steps=10, averaging=KINDS["tail"])
        assert "ended after step 10, before its average of the weights began" in caplog.text


class TestFromTheConfig:
    @pytest.mark.parametrize(
        ("typed", "told"),
        [
            ("average=emma", "did you mean average=ema?"),
            ("average=ema average.decay=2", "average.decay = 2 expected a number of at least 0 and below 1"),
            ("average=ema average.decay=0.9 average.over=10%", "average.over = 10% average.decay sets the memory"),
            ("average=ema average.start=8", "is 8 steps, but the run has only 8"),
            ("average=swa average.every=9", "is 9 steps, and no multiple of it"),
            ("average=tail average.last=9", "is 9 steps, but the run has 8"),
            ("average=power average.width=0.3", "average.width = 0.3 expected a number above 0 and at most 0.28"),
            ("average=ema average.deccay=0.9", "did you mean average.decay?"),
            ("average=ema optimizer=schedule_free_adamw", "averages the weights itself"),
            ("average=tail optimizer=asgd", "ASGD averages the weights itself"),
            ("average=ema trainer.strategy=fsdp", "an average is one of whole weights"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, typed: str, told: str, capsys: Any, tmp_path: Path) -> None:
        code = main([*SHORT, f"output={tmp_path}", *typed.split(), "task=plan"])
        assert (code, told in " ".join(capsys.readouterr().err.split())) == (2, True)

    def test_the_plan_tells_what_is_averaged(self, capsys: Any, tmp_path: Path) -> None:
        assert main([*SHORT, f"output={tmp_path}", "average=swa", "average.every=2", "task=plan"]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "average: the mean of the weights after every 2 steps from 8 to 8; it is validated" in told
        assert "average=swa is meant for a constant LR, but from step 8 on" not in told
        (plan,) = tmp_path.glob("*/plan.json")
        assert json.loads(plan.read_text())["average"]["first"] == 8

    def test_a_run_with_routes_and_gradual_unfreezing_resumes_exactly(self, tmp_path: Path) -> None:
        options = [
            *SHORT,
            "model.widths=[8,8]",
            "average=ema",
            "optimizer=muon",
            "layers=backbone_head",
            f"output={tmp_path}",
        ]
        options += ["layers.rules=[{name: head, match: 'head.*'}, {name: hidden, select: matrix, route: muon, "
                    "unfreeze: 50%}, {name: rest, match: '*', unfreeze: 25%}]"]  # fmt: skip
        folder = Path(train_task.run(compose(options))["folder"])
        last, cut = (folder / "checkpoints" / f"step-000000{step}.ckpt" for step in (8, 4))
        before = read_checkpoint(last)
        last.unlink()
        train_task.run(compose([*options, f"resume.from={cut}"]))
        after = read_checkpoint(last)
        assert equal(after["state_dict"], before["state_dict"])
        assert equal(after["lrflow"]["training"], before["lrflow"]["training"])
        assert before["lrflow"]["average"]["entered"] == 8
