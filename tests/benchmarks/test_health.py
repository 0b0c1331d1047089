"""Labels of `benchmarks.health` from outcomes, the rules of other tools, and scores, on series made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.health import findings, rules
from benchmarks.health.judge import EITHER, Score, leave_one_out, score, truth
from benchmarks.health.labels import KINDS, Label, label
from benchmarks.health.problems import PROBLEMS, Cell, Problem
from benchmarks.health.recorded import Recorded
from lrflow.config import instantiate
from lrflow.health import Detector

STEPS = 200
PROBLEM = Problem("toy", "a toy", True, "", STEPS, -3, 1)
FLAT = np.ones(STEPS)


def run(loss, val=None, lr="0.1", schedule="cosine", illness="none", name="toy", **more) -> Recorded:
    """A run with a training loss [steps], and validation losses at ten places: by default its training loss there."""
    loss = np.array(loss, dtype=float)
    validated = np.arange(1, 11) * len(loss) // 10
    rates, none = np.full((len(loss), 1), float(lr)), np.zeros((0, 1))
    series = {
        "loss": loss, "grad_norm": np.ones(len(loss)), "lr": rates[:, 0], "groups": ("all",), "rates": rates,
        "seconds": np.ones(len(loss)), "measured": np.zeros(0, int), "gradient": none, "weight": none, "update": none,
        "cosine": np.zeros(0), "validated": validated,
        "metrics": {"val/loss": loss[validated - 1] if val is None else np.array(val, dtype=float)},
    }  # fmt: skip
    return Recorded(Cell(name, schedule, lr, 0, illness), **(series | more))


def falling(end: float, steps: int = STEPS) -> np.ndarray:
    """A loss that falls from 1 to `end`, with most of the fall at the beginning."""
    return end + (1 - end) * np.exp(-np.arange(steps) / 15)


def grid() -> list[Recorded]:
    """Runs from too low an LR to one that diverges; the best LR is 0.1."""
    ends = {"0.001": 0.99, "0.0032": 0.5, "0.01": 0.17, "0.032": 0.12, "0.1": 0.1, "0.32": 0.13, "1": 0.4}
    burst = np.r_[1.0, np.full(STEPS - 1, 2.0)]
    return [*(run(falling(end), lr=lr) for lr, end in ends.items()), run(burst, lr="3.2")]


def kinds(runs: list[Recorded]) -> dict[str, tuple[str, ...]]:
    return {one.run.cell.lr: one.kinds for one in label(PROBLEM, runs)}


def test_labels_of_a_grid_follow_from_regrets():
    labels = {one.run.cell.lr: one for one in label(PROBLEM, grid())}
    assert {lr: one.kinds for lr, one in labels.items()} == {
        "0.001": ("too_low",),
        "0.0032": ("too_low",),
        "0.01": (),  # near the border
        "0.032": ("healthy",),
        "0.1": ("healthy",),
        "0.32": ("healthy",),
        "1": ("too_high",),
        "3.2": ("diverging", "too_high"),
    }
    assert labels["0.1"].best_lr == 0.1
    assert labels["0.01"].truth["too_low"] is None
    assert labels["0.0032"].regret == pytest.approx((0.5 - 0.1) / (0.99 - 0.1), rel=0.02)
    assert truth(labels["3.2"], "too_high") is None
    assert truth(labels["3.2"], EITHER) is True
    assert 0 < labels["0.0032"].shown["too_low"] < 50


def test_a_run_that_is_ill_of_something_else_has_no_label_of_the_lr():
    noisy = run(falling(0.6), lr="0.1", illness="noisy")
    broken = run(np.full(STEPS, np.nan), lr="0.1", illness="nonfinite")
    found = label(PROBLEM, [*grid(), noisy, broken])[-2:]
    assert [one.kinds for one in found] == [(), ("nonfinite",)]
    assert truth(found[1], "diverging") is None


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        (falling(0.01), [0.9, 0.4, 0.2, 0.1, 0.1, 0.12, 0.15, 0.17, 0.2, 0.2], True),
        (falling(0.01), [0.9, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], False),
        (np.r_[falling(0.1)[:80], np.full(120, 0.2)], [0.9, 0.4, 0.2, 0.1, 0.1, 0.12, 0.15, 0.2, 0.2, 0.2], False),
    ],
    ids=["the validation loss rises while the training loss falls", "none rises", "both rise"],
)
def test_overfitting_is_a_rise_of_the_validation_loss_alone(train, val, expected):
    runs = [one for one in grid() if one.cell.lr != "0.1"]
    (found,) = [one for one in label(PROBLEM, [*runs, run(train, val)]) if one.run.cell.lr == "0.1"]
    assert found.truth["overfitting"] is expected


def test_noise_that_annealing_removes_is_oscillating():
    constant = [replace(one, cell=replace(one.cell, schedule="constant")) for one in grid()]
    constant[5] = run(falling(0.4), lr="0.32", schedule="constant")
    found = {one.run.cell.lr: one.kinds for one in label(PROBLEM, [*grid(), *constant])[len(constant) :]}
    assert found["0.32"] == ("too_high", "oscillating")
    assert found["0.1"] == ("healthy",)


def test_a_return_is_better_if_it_is_higher():
    problem = replace(PROBLEM, metric="val/return", maximum=True)
    ends = {"0.001": 20.0, "0.01": 200.0, "0.1": 30.0}
    share = np.linspace(0, 2, 10).clip(max=1)
    runs = [run(FLAT, lr=lr, metrics={"val/return": 20 + share * (end - 20)}) for lr, end in ends.items()]
    assert [one.kinds for one in label(problem, runs)] == [("too_low",), ("healthy",), ("too_high",)]


SPIKE = np.r_[np.ones(150), np.full(50, 40.0)]


@pytest.mark.parametrize(
    ("rule", "ill", "well", "step"),
    [
        (rules.lightning_spike, run(SPIKE), run(falling(0.1)), 150),
        (rules.llm_foundry_kill_loss_spike, run(SPIKE), run(falling(0.1)), 153),
        (rules.olmo_spike, run(SPIKE + 1e-3 * np.sin(np.arange(STEPS))), run(falling(0.1)), 150),
        (rules.megatron_spike, run(SPIKE), run(np.r_[np.ones(150), np.full(50, 9.0)]), 150),
        (rules.sagemaker_loss_not_decreasing, run(FLAT), run(falling(0.0)), 10),
        (rules.sagemaker_exploding, run(np.where(np.arange(STEPS) == 7, np.inf, 1.0)), run(FLAT), 7),
        (rules.sagemaker_overfit, run(falling(0.1), [2.0] * 10), run(falling(0.1), [0.1] * 10), 20),
        (rules.sagemaker_overtraining, run(FLAT, np.ones(10)), run(FLAT, np.linspace(9, 0, 10)), None),
        (rules.axolotl_unstable, run(FLAT, grad_norm=100 * SPIKE), run(FLAT), 152),
        (rules.axolotl_small, run(FLAT, grad_norm=FLAT / 20), run(FLAT), 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_rules_of_other_tools_speak_at_the_first_step_that_breaks_them(rule, ill, well, step):
    assert rule(ill) == step
    assert rule(well) is None


def test_a_plateau_is_ten_validations_without_a_lower_loss():
    values = np.r_[1.0, 0.5, np.full(10, 0.5)]
    flat = run(FLAT, values, validated=np.arange(1, 13) * 10)
    assert rules.keras_plateau(flat) == 120
    assert set(rules.speak(flat)) == {
        "keras ReduceLROnPlateau",
        "SageMaker Overtraining",
        "SageMaker LossNotDecreasing",
    }


def judged(name: str, is_ill: bool, signal: float) -> Label:
    said = run(FLAT, name=name, grad_norm=np.full(STEPS, signal))
    return Label(
        said, True, 0.1, 0.0, 0.0, 0.0, dict.fromkeys((*KINDS, "healthy"), False) | {"too_low": is_ill}, {"too_low": 30}
    )


def above(limit: float):
    return lambda run: 20 if run.grad_norm[0] > limit else None


def test_scores():
    labels = [judged("a", True, 3), judged("a", True, 1), judged("a", False, 3), judged("a", False, 1)]
    labels += [judged("a", False, 1)]
    found = score(labels, "too_low", above(2))
    assert found == Score(1, 1, 1, 2, (10,))
    assert (found.precision, found.recall, found.lead) == (0.5, 0.5, 10)
    assert found.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert np.isnan(score(labels, "too_low", above(9)).precision)


def test_a_problem_that_is_left_out_has_no_say_in_the_setting():
    a = [judged("a", True, 3), judged("a", False, 1)]
    b = [judged("b", True, 8), judged("b", False, 4)]
    settings = {"2": above(2), "5": above(5)}
    # On a alone 2 is perfect, on b alone 5: each is judged with the setting of the other.
    assert leave_one_out([*a, *b], "too_low", settings) == Score(1, 1, 1, 1, (10,))


def test_problems_of_both_halves_have_runs_with_names_of_their_own():
    assert {problem.judged for problem in PROBLEMS} == {False, True}
    assert len(PROBLEMS) >= 8
    cells = [cell for problem in PROBLEMS for cell in problem.cells()]
    assert len({cell.place for cell in cells}) == len(cells) >= 120
    assert all(Cell.at(cell.place) == cell for cell in cells)


def test_each_setting_is_an_argument_of_its_detector() -> None:
    nodes = findings.default_nodes()
    built = {name: instantiate(dict(node)) for name, node in findings.setting_nodes(nodes).items()}
    assert len(built) == sum(len(values) for _, values in findings.SETTINGS.values())
    assert all(isinstance(one, Detector) and one.action is None for one in built.values())
