"""What lrflow's detectors find in recorded runs: they are shown the series as the run would have shown them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import lrflow
from benchmarks.health.problems import Cell
from benchmarks.health.recorded import Recorded
from lrflow.config import instantiate, load_config, validate
from lrflow.config.packages import trust_packages
from lrflow.finding import Finding
from lrflow.health.detector import Detector, Watch
from lrflow.health.history import Facts
from lrflow.health.monitors import facts_of
from lrflow.tasks.plan import read_plan
from lrflow.training.block import Block
from lrflow.training.group_norms import GroupNorms

Nodes = Mapping[str, Mapping[str, Any]]
"""`_target_` and arguments of each detector by its name in `health`."""


def default_nodes() -> Nodes:
    """Return the monitors of a run without options."""
    return lrflow.compose("health=watch").monitors


SETTINGS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "diverging": ("growth", (1.1, 1.3, 2.0)),
    "too_high": ("lost", (0.6, 0.8, 0.95)),
    "too_low": ("straightness", (0.15, 0.25, 0.4)),
    "overfitting": ("rise", (0.02, 0.05, 0.1)),
    "oscillating": ("scatter", (0.05, 0.1, 0.2)),
}
"""The argument of each detector that is chosen without a problem to be judged on it, and its values."""


def setting_nodes(nodes: Nodes) -> dict[str, dict[str, Any]]:
    """Return each detector with each of its `SETTINGS`, by names such as `diverging 1.5`."""
    return {
        f"{kind} {value:g}": {**nodes[kind], "action": None, argument: value}
        for kind, (argument, values) in SETTINGS.items()
        if kind in nodes
        for value in values
    }


class Replay:
    """Judges recorded runs by detectors.

    Args:
        runs: folder of the runs.
        nodes: the detectors; other monitors among them, and those that a run ignores, are left out.
    """

    def __init__(self, runs: Path, nodes: Nodes | None = None) -> None:
        trust_packages(["benchmarks"])
        self._runs = runs
        self._nodes = default_nodes() if nodes is None else nodes
        self._facts: dict[Cell, Facts] = {}  # at an LR of 1

    def __call__(self, run: Recorded) -> dict[str, int]:
        """Return the step at which each kind was first found."""
        built = {name: instantiate(dict(node), f"health.{name}") for name, node in self._nodes.items()}
        detectors = {name: one for name, one in built.items() if isinstance(one, Detector) and one.action != "ignore"}
        watch, found = Watch(self.facts(run), detectors), dict[str, int]()
        with np.errstate(all="ignore"):
            for finding in _show(run, watch):
                found.setdefault(finding.kind, finding.step)
        if "nonfinite" in self._nodes and not np.isfinite(run.loss + run.grad_norm).all():
            found["nonfinite"] = int(np.argmin(np.isfinite(run.loss + run.grad_norm)))
        return found

    def facts(self, run: Recorded) -> Facts:
        """Return what the detectors of a run knew before its first step; runs that differ in the LR share the rest."""
        key = replace(run.cell, lr="1", seed=0)
        if key not in self._facts:
            folder = self._runs / run.cell.place
            facts = facts_of(validate(load_config(folder / "config.yaml")), read_plan(str(folder), self._runs))
            self._facts[key] = replace(facts, lr=facts.lr / float(run.cell.lr))
        return replace(self._facts[key], lr=self._facts[key].lr * float(run.cell.lr))


def _show(run: Recorded, watch: Watch) -> Iterator[Finding]:
    """Show the steps and validations of a run in their order, and yield the findings."""
    at = 0
    for index, step in enumerate([*run.validated.tolist(), run.steps]):
        if step > at:
            yield from watch.extend(block(run, at, step))
            at = step
        if index < len(run.validated):
            yield from watch.add_validation(step, {name: float(series[index]) for name, series in run.metrics.items()})


def block(run: Recorded, start: int, stop: int) -> Block:
    """Return the steps of a run from `start` up to but excluding `stop`."""
    rows = slice(start, stop)
    some = (run.measured >= start) & (run.measured < stop)
    series = (run.gradient[some], run.weight[some], run.update[some], run.cosine[some])
    norms = GroupNorms(run.measured[some] - start, *series) if some.any() else None
    rates = run.rates[rows]
    return Block(start, run.loss[rows], run.grad_norm[rows], run.seconds[rows], rates, rates, norms=norms)
