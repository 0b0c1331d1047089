"""Detectors look at steps that depend on the length of the run alone, and what lasts is found once."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import lrflow.health
from lrflow.config.schemas.detector_limits import READ_NORMS
from lrflow.errors import LrflowError
from lrflow.health import Detector, Facts, Finding, History
from lrflow.health.detector import Detection, Watch
from lrflow.health.diverging import Diverging
from lrflow.health.spiking import Spiking
from lrflow.training import Block
from lrflow.training.findings import Findings
from lrflow.training.recovery import Request
from lrflow.training.trainer import Trainer


def cut(whole: Block, edges: list[int]) -> list[Block]:
    """The parts of a block from step 0 on that end before these steps, and its rest."""
    return [whole.part(start, stop) for start, stop in pairwise([0, *edges, len(whole)])]


class Above(Detector):
    """Finds a last loss above 1."""

    def judge(self, history: History) -> Finding | None:
        self.seen = [*getattr(self, "seen", []), history.step]
        loss = float(history.recent["loss"][-1])
        return Finding(self.kind, history.step, history.step, f"{loss}") if loss > 1 else None


def block(loss: Sequence[float]) -> Block:
    values = np.array(loss, dtype=float)
    rates = np.ones((len(values), 1))
    return Block(0, values, values, values, rates, rates)


@pytest.mark.parametrize("edges", [[], [1, 9, 10, 11, 333], list(range(1, 1000))])
def test_when_they_look(edges: list[int]) -> None:
    detector = Above()
    watch = Watch(Facts(4000), {"above": detector})
    for part in cut(block([0.0] * 1000), edges):
        assert not list(watch.extend(part))
    assert detector.seen == list(range(40, 1001, 40))


@pytest.mark.parametrize("reads", [True, False])
def test_after_a_validation_only_those_look_that_read_it(reads: bool) -> None:
    detector = Above()
    detector.reads_validations = reads  # type: ignore[misc]
    watch = Watch(Facts(4000), {"above": detector})
    assert not list(watch.extend(block([0.0] * 10)))
    assert not list(watch.add_validation(10, {"val/loss": 1.0}))
    assert getattr(detector, "seen", []) == [10] * reads


def test_what_lasts_is_found_once_and_what_comes_back_again() -> None:
    watch = Watch(Facts(1000), {"above": Above()})
    loss = [2.0] * 100 + [0.0] * 50 + [2.0] * 50 + [0.0] * 75 + [2.0] * 25
    found = [finding.step for finding in watch.extend(block(loss))]
    assert found == [25, 300]


def test_what_is_a_part_of_another_finding_is_not_reported_after_it() -> None:
    class Far(Above):
        covers = ("above",)

        def judge(self, history: History) -> Finding | None:
            loss = float(history.recent["loss"][-1])
            return Finding(self.kind, history.step, history.step, f"{loss}") if loss > 5 else None

    watch = Watch(Facts(1000), {"far": Far(), "above": Above()})
    loss = [2.0] * 50 + [9.0] * 50 + [0.0] * 100 + [9.0] * 50 + [2.0] * 50
    found = [(finding.kind, finding.step) for finding in watch.extend(block(loss[:150]))]
    assert found == [("above", 25), ("far", 75)]
    resumed = Watch(Facts(1000), watch.detectors)
    resumed.load_state_dict(watch.state_dict())
    assert not list(resumed.extend(replace(block(loss[150:]), first=150)))


def test_a_resumed_run_does_not_find_again_what_it_knows() -> None:
    first, second = (Watch(Facts(1000), {"above": Above()}) for _ in range(2))
    parts = cut(block([2.0] * 100), [50])
    assert [one.step for one in first.extend(parts[0])] == [25]
    second.load_state_dict(first.state_dict())
    assert not list(second.extend(parts[1]))


def test_all_processes_judge_the_metrics_of_the_first_one() -> None:
    """Those of a module of a user's own may differ, and a process that stops alone would leave the others waiting."""
    detection = Detection(Watch(Facts(1000), {}))
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        sanity_checking=False,
        global_step=50,
        callback_metrics={"val/loss": torch.tensor(2.0)},
        strategy=SimpleNamespace(broadcast=lambda own: dict.fromkeys(own, 1.0)),
    )
    detection.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert detection.watch.history.validations == [(50, {"val/loss": 1.0})]


@pytest.mark.parametrize("detector", [Spiking, Diverging])
def test_batches_are_suspected_of_spikes_alone(detector: type[Detector], tmp_path: Path) -> None:
    asked: list[Request] = []

    def request(since: int, reason: str, step: int, suspects: bool) -> None:
        asked.append(Request(step, since, reason, suspects))

    class Rolling(Trainer):
        is_global_zero = False  # type: ignore[assignment]
        rollback = SimpleNamespace(request=request, is_past=lambda step: False)

        def __init__(self) -> None: ...

    trainer = Rolling()
    detection = Detection(Watch(Facts(100), {"x": detector(action="recover")}))  # type: ignore[call-arg]
    detection.run = SimpleNamespace(findings=Findings(tmp_path))  # type: ignore[assignment]
    detection._respond(trainer, iter([Finding("x", 50, 40, "it jumped")]))
    assert asked == [Request(49, 40, "it jumped", detector is Spiking)]


@pytest.mark.parametrize(
    ("own", "default", "acts", "expected"),
    [
        (None, "watch", ("stop",), "watch"),
        (None, "stop", ("stop",), "stop"),
        (None, "recover", ("stop",), "watch"),
        (None, "stop", (), "watch"),
        ("stop", "watch", (), "stop"),
    ],
)
def test_response(
    own: str, default: str, acts: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Above, "acts", acts)
    assert Above(own).response(default) == expected  # type: ignore[arg-type]


class Returns(Detector):
    """Returns what it is given; it calls no `__init__` of the base class."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def judge(self, history: History) -> Any:
        return self.found


def test_a_detector_of_the_user_s_own_is_held_to_what_it_promises() -> None:
    watch = Watch(Facts(1000), {"mine": Returns(Finding("theirs", 1, 1, "it is so"))})
    (found,) = watch.extend(block([0.0] * 50))
    assert (found.kind, watch.detectors["mine"].response("stop")) == ("mine", "watch")
    with pytest.raises(LrflowError, match=r"health.mine: Returns.judge returned True; expected a Finding, or None"):
        list(Watch(Facts(1000), {"mine": Returns(True)}).extend(block([0.0] * 50)))
    with pytest.raises(ValueError, match=r"action: expected one of watch, stop, recover, .*, ignore, got 'explode'"):
        Above("explode")  # type: ignore[arg-type]


def test_the_config_knows_which_detectors_read_the_norms_of_groups() -> None:
    """So it can refuse an action of theirs where no norms are measured, without torch."""
    reading = set()
    for name in lrflow.health.__all__:
        if isinstance(one := getattr(lrflow.health, name), type) and issubclass(one, Detector) and one is not Detector:
            tree = ast.parse(inspect.getsource(inspect.getmodule(one)))  # type: ignore[arg-type]
            parts = {part.name: part for part in tree.body if isinstance(part, ast.ClassDef | ast.FunctionDef)}
            nodes, asked = [*ast.walk(parts.pop(name))], {name}
            for node in nodes:  # grows by what it calls
                if isinstance(node, ast.Name) and node.id in parts:
                    nodes += ast.walk(parts.pop(node.id))
                asked |= {node.attr} if isinstance(node, ast.Attribute) else set()
            reading |= {name} if asked & {"norms", "update_ratio"} else set()
    assert reading == READ_NORMS
