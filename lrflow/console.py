"""Where lrflow prints, and how keys are called in its tables."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console


class QuietConsole(Console):
    """A console that falls silent when nobody reads it any more: a closed pager or a lost connection ends no run."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does, which renders for a quiet console too: the table of a plan takes a tenth of a second."""
        if not self.quiet:
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Go on without a reader; rich would end the process."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # or Python would complain at its exit


def short_names(keys: Sequence[str], others: Iterable[str] = ()) -> list[str]:
    """The shortest ends of keys, in whole words, that tell them apart from each other and from other columns."""
    ends = [[".".join(key.split(".")[-count:]) for count in range(1, key.count(".") + 2)] for key in keys]
    taken = Counter(end for each in ends for end in each) + Counter(others)
    return [next((end for end in each if taken[end] == 1), each[-1]) for each in ends]
