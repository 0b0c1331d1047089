"""Findings survive their record, and a file that is damaged yields those that can be read."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrflow.finding import Finding, kinds_of, read_findings

LOUD = Finding(
    "too_low", 1040, 10, "the loss falls in a line", {"cosine": 0.99, "loss": math.inf}, 0.8, "optimizer.lr=1"
)


def test_a_finding_in_one_line() -> None:
    assert LOUD.line == "too low since step 10: the loss falls in a line; try optimizer.lr=1"
    assert Finding("x", 1040, 1040, "it is so").line == "x at step 1,040: it is so"


def test_a_record_has_plain_values_and_is_read_back() -> None:
    record = json.loads(json.dumps(LOUD.record()))
    assert record["evidence"] == {"cosine": 0.99, "loss": "inf"}
    assert Finding.from_record(record) == LOUD


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("message", 3, "message of a finding: expected text, got 3"),
        ("evidence", None, "evidence of a finding: expected a mapping of names to numbers, got None"),
        ("evidence", {"x": "abc"}, "expected a mapping of names to numbers, got {'x': 'abc'}"),
        ("step", math.nan, "step of a finding: expected a whole number, got nan"),
        ("since", None, "since of a finding: expected a whole number, got None"),
        ("confidence", math.nan, "confidence of a finding: expected a number from 0 to 1, or None, got nan"),
    ],
)
def test_what_cannot_be_recorded_is_no_finding(field: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        replace(LOUD, **{field: value})


def test_numbers_of_numpy_are_plain_ones() -> None:
    finding = Finding("x", np.int64(3), np.int64(2), "", {"loss": np.float32(0.5)}, np.float32(0.5))  # type: ignore[arg-type]
    assert json.loads(json.dumps(finding.record())) == Finding("x", 3, 2, "", {"loss": 0.5}, 0.5).record()


def test_lines_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    assert read_findings(tmp_path) == []
    lines = [
        json.dumps(LOUD.record()),
        "[1]",
        '{"step": 3}',
        '{"kind": "a", "step": "x"}',
        '{"kind": "a"}',
        '{"kind": "a", "step": 1e999}',
        '{"kind": "a", "confidence": 1' + "0" * 400 + "}",
        "[" * 100_000,
        '{"kind": "to',
    ]
    text = "\n".join([*lines[:-1], lines[0], lines[-1]])
    (tmp_path / "findings.jsonl").write_bytes(text.encode() + b"\xe2")  # a killed run may leave a part of a character
    assert read_findings(tmp_path) == [LOUD, Finding("a", 0, 0, ""), LOUD]
    assert kinds_of(read_findings(tmp_path)) == ("too_low", "a")
