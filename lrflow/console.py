"""Where lrflow prints."""

from __future__ import annotations

import os
import sys
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
