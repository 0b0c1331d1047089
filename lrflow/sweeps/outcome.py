"""How the jobs of a sweep end."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrflow.errors import LrflowError, PrunedError, StoppedError


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        overrides: the job's own.
        result: what its task returned: metrics, and `folder`.
        error: what it raised instead.
        seconds: how long it took.
        folder: where it wrote.
    """

    overrides: list[str]
    result: Mapping[str, Any]
    error: Exception | None
    seconds: float
    folder: Path | None = None

    @property
    def status(self) -> str:
        """`done`, `failed`, `pruned` or `stopped`."""
        if self.error is None:
            return "done"
        if isinstance(self.error, PrunedError):
            return "pruned"
        return "stopped" if isinstance(self.error, StoppedError) else "failed"

    @property
    def exit_code(self) -> int:
        """0, or what the failure asks for."""
        if self.error is None:
            return 0
        return self.error.exit_code if isinstance(self.error, LrflowError) else 1

    def portable(self) -> Outcome:
        """The same for another process; an error that cannot go there is replaced by its message."""
        try:
            pickle.loads(pickle.dumps(self.error))
        except Exception:
            return replace(self, error=LrflowError(f"{type(self.error).__name__}: {self.error}"))
        return self
