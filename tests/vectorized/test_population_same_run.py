"""The fast path is the same run, or it is not taken: networks of many kinds, trained together and alone."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import odd_modules
import pytest
import torch
from torch.nn.functional import cross_entropy

from lrflow.config import Config, compose
from lrflow.tasks import population, population_checks, train
from lrflow.training.state import random_state, same_random_state
from lrflow.vectorized.population import Population, PopulationError
from lrflow.vectorized.updates import NEVER, SGDUpdate, StepCoefficients
from lrflow.vectorized.verification import SHAKEN

OPTIONS = [
    "model=custom",
    "model._target_=odd_modules.network",
    "model.loss=cross_entropy",
    "data=custom",
    "data._target_=odd_modules.Points",
    "+data.batch_size=16",
    "+data.val_size=12",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.progress=false",
    "optimizer=momentum",
    "optimizer.weight_decay=0.05",
    "layers=uniform",
    "task.test=false",
]
MEMBERS = (["seed=0", "optimizer.lr=0.05"], ["seed=1", "optimizer.lr=0.1"])

#: What the others are left to one after the other for; a network that is not listed has to train together.
ALONE = {
    "dropout_2d": "is a Dropout1d, which is not known",
    "alpha_dropout": "is a AlphaDropout, which is not known",
    "rrelu": "is a RReLU, which is not known",
    "cumulative_norm": "cannot be vectorised",
    "max_norm": "an Embedding with max_norm",
    "sparse": "an Embedding with max_norm, scale_grad_by_freq or sparse",
    "functional_padding": "training together changes the run",
    "forward_hook": "0 has a forward hook",
    "backward_hook": "0 has a backward hook",
    "gradient_hook": "0.weight has a hook on its gradient",
    "accumulated_hook": "0.weight has a hook on its gradient",
    "old_weight_norm": "0 has a hook before its forward pass",
    "weight_normed": "0 is parametrized",
    "old_spectral_norm": "0 has a hook before its forward pass",
    "orthogonal": "0 is parametrized",
    "mixed_types": "b.weight is of float64",
    "transformer": "cannot be vectorised",
    "gru": "rnn is a GRU, which is not known",
    "one_branch": "gets a gradient only in some steps",
    "alternating": "the model changes calls during training",
    "layer_drop": "draws random numbers",
    "numpy_noise": "draws random numbers",
    "noise": "cannot be vectorised",
    "functional_dropout": "cannot be vectorised",
    "random_attribute": "their models differ in frequencies",
    "random_list": "their models differ in hidden",
    "running_maximum": "cannot be vectorised",
    "made_buffer": "buffers",
    "counter": "the model changes steps during training",
    "remembering": "the model changes last during training",
    "own_function": "cannot be vectorised",
    "hook_in_forward": "training together changes the run",
    "other_data": "cannot be vectorised",
    "always_training": "draws random numbers",
    "dynamic": "cannot be vectorised",
    "class_counter": "the model changes odd_modules.ClassCounter.seen during training",
    "global_counter": "the model changes odd_modules.CALLS during training",
    "global_generator": "the model changes odd_modules.GENERATOR during training",
    "mode_counter": "the model changes odd_modules.CALLS during training",
    "counted_method": "the model changes odd_modules.CountedMethod.middle during training",
}
#: Those whose state is their class's or their Python module's.
SHARED = ("class_counter", "global_counter", "global_generator", "mode_counter", "counted_method")
FAST = (
    "dropout",
    "drop_path",
    "batch_norm",
    "frozen_norm",
    "padding",
    "unused",
    "assigned_buffer",
    "gradient_hook",
    "counter",
)


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRFLOW_TRUST", "odd_modules")
    torch.set_num_threads(1)


@cache
def composed(*words: str) -> Config:
    """The config of a job whose network is still to be chosen: composing takes longer than its training."""
    return compose([*OPTIONS, "+model.kind=relu", *words])


def jobs(output: Path, kind: str, *words: str, members: Any = MEMBERS) -> dict[int, Config]:
    found = {}
    for number, own in enumerate(members):
        base = composed(*words, *own)
        model = base.model.model_copy(update={"kind": kind})
        found[number] = base.model_copy(update={"model": model, "output": str(output)})
        found[number]._source = base.source.copy()
        found[number]._source.model.kind, found[number]._source.output = kind, str(output)
        found[number]._run_folder = output / str(number)
    return found


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(max((folder / "checkpoints").glob("step-*.ckpt")), weights_only=True)


def check_same(
    tmp_path: Path, kind: str, *words: str, members: Any = MEMBERS, allowed: float = 1e-3, only: int | None = None
) -> list[str]:
    """Trains jobs together, and those that did also alone, and compares them; gives what was told.

    Weights are compared unless more is allowed: those that rounding alone moves are another draw. `only`: the one job
    that also trains alone.
    """
    told: list[str] = []
    found = population.train_together(
        jobs(tmp_path / "together", kind, *words, members=members), 64, False, told.append
    )
    if found:
        alone = jobs(tmp_path / "alone", kind, *words, members=members)
        for number, ended in found.items():
            if ended.status == "diverged" or only not in (None, number):
                continue
            assert dict(ended.metrics) == pytest.approx(metrics_of(train.run(alone[number])), rel=allowed, abs=1e-5)
            ours, theirs = (checkpoint(tmp_path / name / str(number)) for name in ("together", "alone"))
            if allowed == 1e-3:
                torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=allowed, atol=1e-5)
                mine, its = ours["optimizer_states"][0]["state"], theirs["optimizer_states"][0]["state"]
                torch.testing.assert_close(mine, its, rtol=allowed, atol=1e-5)
            assert same_random_state(ours["lrflow"]["random"][0], theirs["lrflow"]["random"][0])
    return told


def metrics_of(result: Any) -> dict[str, float]:
    found = getattr(result, "metrics", result)
    return {name: value for name, value in found.items() if name != "folder"}


@pytest.mark.parametrize(
    "kind",
    [
        *FAST,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in odd_modules.KINDS if kind not in (*FAST, *SHARED)),
    ],
)
def test_a_network_trains_as_it_does_alone_or_runs_alone(kind: str, tmp_path: Path, undrawn: None) -> None:
    (told,) = check_same(tmp_path, kind, only=[*odd_modules.KINDS].index(kind) % 2)
    assert ALONE.get(kind, "train together: ") in told


@pytest.mark.parametrize("kind", SHARED)
def test_class_state_is_detected_and_restored(kind: str, tmp_path: Path, undrawn: None) -> None:
    def state() -> list[Any]:
        calls = [cell.cell_contents for cell in odd_modules.CountedMethod.middle.__closure__ or ()][1]
        generator = odd_modules.GENERATOR.get_state()[1].tolist()
        return [odd_modules.ClassCounter.seen, dict(odd_modules.CALLS), calls, generator]

    before = state()
    (told,) = check_same(tmp_path, kind)
    assert ALONE[kind] in told
    assert state() == before


@pytest.mark.parametrize("kind", ["dropout", "batch_norm", "unused", "padding"])
def test_a_network_trains_under_adamw_as_it_does_alone(kind: str, tmp_path: Path, undrawn: None) -> None:
    members = (["seed=0", "optimizer.lr=0.001"], ["seed=1", "optimizer.lr=0.003"])
    words = ["optimizer=adamw", "optimizer.weight_decay=0.05", "trainer.val_every=3 steps"]
    (told,) = check_same(tmp_path, kind, *words, members=members, allowed=SHAKEN if kind == "batch_norm" else 1e-3)
    assert "train together: " in told


def test_a_run_that_depends_on_rounding_runs_alone(tmp_path: Path, undrawn: None) -> None:
    """Adam moves a bias before BatchNorm, whose gradient is zero but for rounding, by the LR in whatever direction."""
    (told,) = check_same(tmp_path, "batch_norm", "optimizer=adamw")
    assert "val/loss is " in told


def test_momentum_that_starts_later_equals_that_of_the_job_alone(tmp_path: Path, undrawn: None) -> None:
    words = ["schedule.also={momentum: {warmup: 4}}", "optimizer.dampening=0.2"]
    (told,) = check_same(tmp_path, "relu", *words)
    assert "train together: " in told


def test_data_that_draw_random_numbers_differ_by_seed(tmp_path: Path, undrawn: None) -> None:
    members = [[f"seed={seed}", f"optimizer.lr={lr}"] for seed in (0, 1) for lr in (0.05, 0.1)]
    told = check_same(tmp_path, "relu", "+data.drawn=true", members=[*members, ["seed=2", "optimizer.lr=0.1"]])
    assert [line.partition(": ")[0] for line in told] == [
        "jobs 0 to 1 train together",
        "jobs 2 to 3 train together",
        "job 4 runs alone",
    ]
    assert told[-1].endswith(": load() of its data draws random numbers, and no other job has its seed")


def test_a_diverged_member_does_not_change_the_buffers_of_the_others(tmp_path: Path, undrawn: None) -> None:
    """A member that fails in the first epoch is left out of the later ones: of weights, buffers, data, and draws."""
    members = [
        ["seed=0", "optimizer.lr=0.05"],
        ["seed=1", "optimizer.lr=1000", "optimizer.weight_decay=1"],
        ["seed=2", "optimizer.lr=0.1"],
    ]
    words = ["trainer.max_epochs=4", "schedule=constant", "trainer.checkpoint.monitor=null"]
    (told,) = check_same(tmp_path, "conv", *words, members=members)
    assert "train together: " in told


def test_the_verification_leaves_no_trace(tmp_path: Path) -> None:
    configs, before = jobs(tmp_path, "dropout"), random_state()
    told = population_checks.verify(configs, population_checks.load_shared_data(configs[0]))
    assert re.fullmatch(r"\d+ steps of jobs 0 and 1 equal those of the jobs alone \(compared in \d+\.\d s\)", told)
    assert same_random_state(before, random_state())
    assert not any(tmp_path.rglob("*"))


def test_the_verification_finds_every_kind_of_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of each kind in the step of a population, and what is told of it."""
    faults: dict[str, Any] = {
        "weight decay of what has none": ("decay", lambda by, _: by["decay"] + 0.5),
        "a wrong LR late in the run": ("lr", lambda by, late: by["lr"] * (1.01 if late else 1)),
        "undamped momentum": ("share", lambda by, _: by["share"] + 0.01),
    }
    for name, change in faults.values():
        with monkeypatch.context() as patched:
            at = StepCoefficients.at

            def wrong(self: StepCoefficients, step: int) -> dict[str, torch.Tensor]:
                by, late = at(self, step), self._timeline[step] >= self._plans[0].horizon.steps // 2  # noqa: B023
                return by | {name: change(by, late)}  # noqa: B023

            patched.setattr(StepCoefficients, "at", wrong)
            with pytest.raises(PopulationError, match=r"training together changes the run: in job [01]"):
                population_checks.verify(jobs(tmp_path, "relu"), None)


def test_a_parameter_trained_only_in_some_steps_ends_the_population() -> None:
    """Late in the run too, where the trial of two members has seen nothing of it."""
    networks = [odd_modules.network("alternating") for _ in range(2)]
    update = SGDUpdate({"nesterov": False})
    names = [[name for name, _ in networks[0].named_parameters()]]
    start = np.full((2, 1), NEVER)
    together = Population(networks, names, cross_entropy, update, start, torch.device("cpu"))
    by = {name: torch.full((2, 1), 0.1) for name in ("lr", "decay")}
    batch = torch.randn(2, 4, 16), torch.zeros(2, 4, dtype=torch.int64)
    together.step(*batch, by)
    with pytest.raises(PopulationError, match=r"other\.(bias|weight) gets a gradient only in some steps"):
        together.step(*batch, by)
