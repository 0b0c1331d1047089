"""Something that a monitor found in a run (`Finding`), and the file in the run folder that records it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lrflow.runs import FINDINGS


@dataclass(frozen=True)
class Finding:
    """Something that a monitor found in a run.

    Args:
        kind: what it is, such as `diverging`: the name of its monitor in `health`.
        step: the number of optimizer steps that were made when it was found.
        since: the first step that shows it.
        message: what happened, in words with numbers, without a full stop: `the loss rose from 0.3 to 2.1`.
        evidence: the numbers that it was judged by.
        confidence: the share of such findings that are true, as measured by `benchmarks/health`; from 0 to 1. None:
            not measured.
        remedy: what to change, in words of the config: `optimizer.lr=0.003, or task=find`. Empty: unknown.

    Raises:
        ValueError: a field is not what it should be, so that it could not be recorded.
    """

    kind: str
    step: int
    since: int
    message: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    confidence: float | None = None
    remedy: str = ""

    def __post_init__(self) -> None:
        for name in ("kind", "message", "remedy"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} of a finding: expected text, got {getattr(self, name)!r}")
        try:
            numbers = {str(name): float(value) for name, value in self.evidence.items()}
        except (AttributeError, TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: of a whole tensor
            message = f"evidence of a finding: expected a mapping of names to numbers, got {self.evidence!r}"
            raise ValueError(message) from None
        object.__setattr__(self, "evidence", numbers)
        for name in ("step", "since"):
            object.__setattr__(self, name, max(0, self._number(name, int, "a whole number")))
        if self.confidence is not None:
            confidence = self._number("confidence", float, "a number from 0 to 1, or None")
            object.__setattr__(self, "confidence", confidence)

    def _number(self, name: str, convert: type[int] | type[float], expected: str) -> Any:
        given = getattr(self, name)
        try:
            number = convert(given)
            if convert is int or 0 <= number <= 1:
                return number
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass
        raise ValueError(f"{name} of a finding: expected {expected}, got {given!r}")

    @property
    def line(self) -> str:
        """The finding in one line."""
        since = f" since step {self.since:,}" if self.since < self.step else f" at step {self.step:,}"
        remedy = f"; try {self.remedy}" if self.remedy else ""
        return f"{spoken(self.kind)}{since}: {self.message}{remedy}"

    def record(self) -> dict[str, Any]:
        """Return the finding as plain data; numbers that are not finite are text, which JSON can hold."""
        finite = {name: value if math.isfinite(value) else str(value) for name, value in self.evidence.items()}
        return {**asdict(self), "evidence": finite}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Finding:
        """Return the finding of a record; of one that lacks fields, what can be read."""
        evidence, confidence = record.get("evidence"), record.get("confidence")
        step = int(record.get("step", 0))
        return cls(
            str(record["kind"]),
            step,
            int(record.get("since", step)),
            str(record.get("message", "")),
            {name: float(value) for name, value in evidence.items()} if isinstance(evidence, Mapping) else {},
            None if confidence is None else float(confidence),
            str(record.get("remedy", "")),
        )


def spoken(kind: str) -> str:
    """Return the kind of a finding in words: `too low` of `too_low`."""
    return kind.replace("_", " ")


def kinds_of(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return the kinds of findings, each once, in the order in which they were found."""
    return tuple(dict.fromkeys(finding.kind for finding in findings))


def read_findings(folder: Path) -> list[Finding]:
    """Return the findings in the findings.jsonl of a run folder; lines that cannot be read are left out."""
    findings = []
    try:
        lines = (folder / FINDINGS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            findings.append(Finding.from_record(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            continue  # such as the last line of a killed run
    return findings
