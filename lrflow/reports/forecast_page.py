"""The page of a forecast (`report.html`): the predicted loss with its band, its LRs, and what it was fitted to."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lrflow.display import CURVES, MUTED
from lrflow.errors import LrflowError
from lrflow.reports.chart_parts import Axis, Figure, Line, Part
from lrflow.reports.charts import chart
from lrflow.reports.page import Fact, Page
from lrflow.runs import PAGE, read_json
from lrflow.wording import counted

FORECAST = "forecast.json"
"""The record of a forecast in its folder."""

_COLUMNS = ("step", "lr", "loss", "low", "high")


def write_forecast_page(folder: Path) -> Path:
    """Write `report.html` from the `forecast.json` and `forecast.csv` of a folder.

    Raises:
        LrflowError: the folder holds no forecast that can be read, or a figure cannot be made.
    """
    try:
        record = read_json(folder / FORECAST, dict)
        with (folder / "forecast.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        curve = {name: [float(row[name]) for row in rows] for name in _COLUMNS}
        page = Page("Forecast", str(folder))
        page.facts(_facts(record))
        page.draw(figures(record, curve))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise LrflowError(f"{folder}: its forecast.json and forecast.csv cannot be read as a forecast") from error
    runs = [(run["folder"], run["steps"], run["losses"]) for run in record["runs"]]
    page.table("Runs that the law was fitted to", ["run", "steps", "losses"], runs)
    page.table("The law", ["parameter", "value"], list(record["parameters"].items()), strong=0)
    if best := record.get("best"):
        ends = sorted(best["others"].items(), key=lambda pair: pair[1])
        page.table("Schedules by their predicted end", ["schedule", "predicted end"], ends, strong=0)
        page.code("Train with the lowest predicted end", best["command"])
    return page.write(folder / PAGE)


def _facts(record: dict[str, Any]) -> list[Fact]:
    end, law = record["predicted"], record["law"].replace("_", "-")
    band = f"{end['low']:.4g} to {end['high']:.4g}, with 90% confidence"
    facts = [
        Fact(f"{record['metric']} after {counted(record['steps'], 'step')}", f"{end['loss']:.4g}", band),
        Fact("law", law, f"R2 {record['r2']:.4f}, typical residual {record['scatter']:.2%} of the loss"),
    ]
    if real := record.get("real"):
        share = f"{real['inside_the_band']:.0%} of its losses lie in the band"
        facts.append(Fact("real", f"{real['loss']:.4g}", f"forecast {real['error']:+.2%}; {share}"))
    return facts


def figures(record: dict[str, Any], curve: dict[str, list[float]]) -> list[Figure]:
    """Return the figures of a forecast: the predicted loss with its band, and the LRs.

    Args:
        record: content of its forecast.json.
        curve: columns of its forecast.csv.
    """
    steps = curve["step"]
    parts: list[Part] = [Line("90% band", steps, curve[name], colour=MUTED, width=1.2) for name in ("low", "high")]
    parts.append(Line("forecast", steps, curve["loss"], colour=CURVES[0], width=2.5))
    first = next((at for at, step in enumerate(steps) if step >= 0.05 * steps[-1]), 0)  # the rest lies far above
    ends = (min(curve["low"]), max(curve["high"][first:]))
    loss = chart(Axis("step", whole=True), Axis(record["metric"], ends=ends), parts)
    rates = chart(Axis("step", whole=True), Axis("LR"), [Line("LR", steps, curve["lr"], colour=CURVES[0])])
    return [
        Figure(
            "forecast", "Predicted loss", loss, "The band holds for schedules like those that the law was fitted to."
        ),
        Figure("forecast-lr", "LR", rates, "The LRs for which the loss is predicted.", 260),
    ]
