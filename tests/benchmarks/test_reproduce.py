"""The frame of `benchmarks.reproduce`: every claim is complete, miniatures run, files and page agree."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks.reproduce import claims
from benchmarks.reproduce.__main__ import main
from benchmarks.reproduce.claims import VERDICTS, Record, Result
from benchmarks.reproduce.measure import exponent, interval, vertex
from lrflow.errors import LrflowError

DOCS = Path(__file__).parent.parent.parent / "docs"
FAST = ("catapult", "forecast", "grokking", "lr_horizon", "mup_width", "schedule_free")
"""Reproductions whose miniature takes a second or two; the others are run by hand with `--fast`."""


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproductions", DOCS / "reproductions.py")
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_each_claim_is_complete() -> None:
    incomplete = {
        name: empty
        for name in claims.names()
        if (
            empty := [
                key for key, value in dataclasses.asdict(claims.claim(name)).items() if not value and key != "limits"
            ]
        )
        or "arxiv.org" not in claims.claim(name).paper
    }
    assert incomplete == {}


def test_each_file_of_results_belongs_to_a_reproduction() -> None:
    files = {path.stem for path in claims.RESULTS.glob("*.json")}
    assert files <= set(claims.names())
    records = {name: Record.read(name) for name in files}
    wrong = {
        name for name, one in records.items() if one and not one.result.low <= one.result.number <= one.result.high
    }
    assert wrong == set()


def test_the_page_is_what_its_generator_writes(pages: ModuleType) -> None:
    assert pages.stale(pages.measured()) == [], "run: python docs/reproductions.py"


@pytest.mark.parametrize("name", FAST)
def test_miniatures_run(name: str, tmp_path: Path) -> None:
    record = claims.run(name, fast=True)
    assert record.result.held in VERDICTS
    assert record.result.told
    assert all(row.keys() == record.result.table[0].keys() for row in record.result.table)
    record.write(name, tmp_path)
    read = Record.read(name, tmp_path)
    assert read
    assert read.result.held == record.result.held
    assert read.result.number == pytest.approx(record.result.number, rel=1e-5)
    assert record.write(name, tmp_path).read_text() == read.write(name, tmp_path).read_text()


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert main([]) == 0
    assert "catapult" in capsys.readouterr().out
    assert main(["catapul"]) == 2
    assert capsys.readouterr().err == "no reproduction is called catapul: did you mean catapult?\n"
    found = Record(Result(1.0, 0.5, 2.0, "partly", 3, "It did."), 61.0)
    monkeypatch.setattr("benchmarks.reproduce.__main__.run", lambda *_: found)
    written = {}
    monkeypatch.setattr(Record, "write", lambda self, name: written.update({name: self}))
    assert main(["catapult", "--fast"]) == 0
    assert "catapult: held partly. " in (said := capsys.readouterr().out)
    assert said.strip().endswith("1 (0.5 to 2). It did. 1 min 1 s of CPU")
    assert written == {}
    assert main(["all"]) == 0
    assert written.keys() == set(claims.names())


def test_best_lrs_and_intervals() -> None:
    rates = [2.0**power for power in range(-6, 1)]
    losses = [math.exp(0.1 * (math.log2(rate) + 2.7) ** 2) for rate in rates]
    assert vertex(np.array(rates), np.array(losses)) == pytest.approx(2**-2.7)
    assert vertex(np.array(rates), np.array([3, 2, 1, *[math.nan] * 4])) == rates[2]
    assert interval(5, lambda drawn: 7.0) == (7.0, 7.0)
    low, high = interval(100, lambda drawn: float(drawn.mean()))
    assert low == pytest.approx(49.5 - 1.96 * 2.9, abs=1)
    assert high == pytest.approx(49.5 + 1.96 * 2.9, abs=1)


def test_the_exponent_of_the_best_lrs_over_sizes() -> None:
    """The best LR is 0.03 times the root of the size for one seed, and 4 times that for the other."""
    rates, sizes = 2.0 ** np.arange(-10, 5), (1, 4, 16)
    best = np.array([[factor * 0.03 * size**0.5 for factor in (1, 4)] for size in sizes])
    losses = np.exp((np.log2(rates) - np.log2(best[..., None])) ** 2 / 50)
    of_first, number, (low, high) = exponent(sizes, rates, losses[:, :1])
    assert of_first == pytest.approx(best[:, 0])
    assert (number, low, high) == pytest.approx((0.5, 0.5, 0.5))
    of_both, number, _ = exponent(sizes, rates, losses)
    assert of_both == pytest.approx(2 * best[:, 0], rel=0.1)
    assert number == pytest.approx(0.5, abs=0.03)


def test_a_run_that_fails_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(name: str, fast: bool) -> Record:
        raise LrflowError("run 3 of the grid failed")

    monkeypatch.setattr("benchmarks.reproduce.__main__.run", fail)
    assert main(["catapult"]) == 1
    assert capsys.readouterr().err == "catapult: run 3 of the grid failed\n"
