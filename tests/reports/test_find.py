"""The page of a range test is made of what its folder holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lrflow.reports.find import write_find_page
from lrflow.tuning.confirm import Confirmed
from lrflow.tuning.range_test import RangeTest
from lrflow.tuning.reading import read
from lrflow.tuning.record import Record

RATES = np.geomspace(1e-6, 10, 80)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    position = np.log10(RATES)
    curve = 2.3 / (1 + np.exp(4 * (position + 3))) + np.exp(6 * (position + 0.5))
    losses = curve + np.random.default_rng(0).normal(scale=0.02, size=(3, 80))
    losses[:, 72:] = np.nan
    tried = ((0.01, 1.0), (0.02, 0.5), (0.04, 0.7), (0.08, np.inf))
    short = Confirmed(0.021, (0.015, 0.03), tried, ("it <may> be higher",))
    Record(RangeTest(RATES, losses), read(RATES, losses), "train/loss", "min", 0.1, short, 30).write(tmp_path)
    return tmp_path


def test_the_page_of_a_folder(folder: Path) -> None:
    text = write_find_page(folder).read_text()
    record = Record.read(folder)
    sweeps, short = (json.loads(found) for found in re.findall(r'json" id="figure-\d">(.*?)</script>', text))
    names = [trace["name"] for trace in sweeps["data"]]
    assert names.count("sweeps") == 3
    assert [name.split()[0] for name in names[3:]] == [
        "mean", "LR", "steepest", "tenth", "valley", "slide", "diverges", "configured",
    ]  # fmt: skip
    marks = {trace["name"].split()[0]: trace["x"][0] for trace in sweeps["data"][4:]}
    assert marks["LR"] == record.reading.lr
    assert marks["steepest"] == record.reading.marks["steepest"]
    assert marks["diverges"] == record.reading.ceiling
    assert [[shape["x0"], shape["x1"]] for shape in sweeps["layout"]["shapes"]] == [
        list(record.reading.interval),
        [record.reading.ceiling, RATES[-1]],
    ]
    runs, crosses, answer = short["data"]
    assert (runs["x"], runs["y"]) == ([0.01, 0.02, 0.04], [1.0, 0.5, 0.7])
    assert crosses["x"] == [0.08]
    assert answer["x"] == [0.021, 0.021]
    assert "it &lt;may&gt; be higher" in text
