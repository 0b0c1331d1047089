"""The trials of a sweep, as its slots share them: which comes next, and how each ended."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from lrflow.config.sweep import Sweep
from lrflow.errors import LrflowError, PrunedError, StoppedError
from lrflow.runs import RunFolder, newest_checkpoint
from lrflow.sweeps.jobs import Pending
from lrflow.sweeps.notes import note_end, noted
from lrflow.sweeps.outcome import Outcome
from lrflow.sweeps.progress import Progress
from lrflow.sweeps.space import Space
from lrflow.sweeps.study import quiet


class Trials:
    """The trials of a sweep. Several threads may take and note them.

    Args:
        study: where they are noted.
        space: what they are drawn from.
        settings: the sweeper's.
        n_trials: in all.
        folder: of the sweep; trial n runs in its folder n.
        progress: what is told of them.
    """

    def __init__(
        self, study: optuna.Study, space: Space, settings: Sweep, n_trials: int, folder: Path, progress: Progress
    ) -> None:
        self._study, self._space, self._settings = study, space, settings
        self._n_trials, self._folder, self._progress = n_trials, folder, progress
        self._is_shared = "://" in settings.storage or "${" in settings.storage
        self._lock = threading.Lock()  # a sampler sees one trial after the other
        self._taken: set[int] = set()
        self._is_closed = False

    def close(self) -> list[RunFolder]:
        """Hands out no more trials.

        Returns:
            the folders of those that are taken.
        """
        self._is_closed = True
        return [RunFolder(self._folder / str(number)) for number in tuple(self._taken)]
