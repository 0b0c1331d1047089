"""The record in plan.json and plan.png of what changed the LR of a run on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrflow.files import write_json
from lrflow.plan.actual import Actual
from lrflow.plan.figure import plot
from lrflow.plan.plan import Plan


def record_events(
    path: Path, metrics: Path, events: Sequence[Mapping[str, Any]], resolve: Callable[[str], Any]
) -> None:
    """Add the events of a run to its plan.json, and draw the LR that it used into plan.png, if there is one.

    Args:
        path: the file plan.json.
        metrics: the file metrics.csv.
        events: what changed the LR; see `Actual`.
        resolve: finds the class of a user's own schedule by its dotted name.

    Raises:
        OSError, ValueError: a file cannot be read or written.
        ConfigError: plan.json describes no plan.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, content | {"events": [dict(event) for event in events]})
    if (picture := path.with_suffix(".png")).exists():
        plan = Plan.from_dict(content, resolve)
        plot(plan, picture, Actual.read(metrics, plan.names, events))
