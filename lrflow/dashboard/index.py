"""The runs and sweeps below a folder, kept in memory: a file is read again only when it has changed.

A look at the folder reads what is quick to read, such as summary.json. Configs and curves follow in a thread, the
newest run first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lrflow.history import GrowingFile, Series
from lrflow.metric import TRAIN_LOSS
from lrflow.outcome import STATUSES
from lrflow.reports.runs import UNFINISHED, Run, run_folders, start_of
from lrflow.runs import FINDINGS, ROLLBACKS
from lrflow.sweeps.folders import GRID_RECORD, RECORD

if TYPE_CHECKING:
    from lrflow.reports.run_course import Best

log = logging.getLogger("lrflow")

PAUSE = 1.0  # seconds between two looks at the folder
POINTS = 48  # of a small curve
RECENT = 60.0  # seconds since the last row of a run, of another machine, that seems to be going on

_TICK = 2_000_000_000  # nanoseconds: longer than the steps of the times of file systems
_METRICS = "metrics.csv"
_FACTS = ("config.yaml", "summary.json", "environment.json", FINDINGS)
_FILES = (*_FACTS, _METRICS, "plan.json", "find.json", "find.csv", ROLLBACKS)
"""What pages read of a run folder."""


@dataclass(frozen=True)
class Details:
    """What takes a while to read: the config and the curve of a run.

    Args:
        metric: the name of the metric by which the run is judged; None: it has none yet.
        best: its best value.
        curve: the metric over the steps, of a few points; before the second validation, the training loss.
        shown: the name of what the curve shows.
        last_step: the number of steps that the run made.
        planned: the number of steps that it should make; None: unknown.
    """

    metric: str | None = None
    best: Best | None = None
    curve: Series = field(default_factory=Series.empty)
    shown: str = ""
    last_step: int = 0
    planned: int | None = None


@dataclass
class Entry:
    """A run below the folder.

    Args:
        id: in addresses.
        name: its folder, relative to that of all runs.
        run: as its files were when they were last read.
        facts: state of the files with its facts: times and sizes.
        curve: state of its metrics.csv.
        changed: time of its folder, in nanoseconds.
        version: number of the change that made it as it is.
        details: None: not read yet.
        file: its metrics.csv, of which only new rows are read; None: it has not been read, or will not grow.
    """

    id: str
    name: str
    run: Run
    facts: tuple[object, ...]
    curve: tuple[object, ...]
    changed: int
    version: int
    details: Details | None = None
    file: GrowingFile | None = None

    @property
    def is_going_on(self) -> bool:
        """Whether a process trains it, here or, as its metrics.csv grows, on another machine."""
        changed = self.curve[0] if self.curve and isinstance(self.curve[0], int) else 0
        is_recent = time.time() - changed / 1e9 < RECENT
        return self.run.status == "running" or (self.run.status in UNFINISHED and is_recent)


@dataclass(frozen=True)
class Sweep:
    """A sweep below the folder.

    Args:
        id: in addresses.
        name: its folder, relative to that of all runs.
        folder: its folder.
        entries: its runs, the newest first.
    """

    id: str
    name: str
    folder: Path
    entries: list[Entry]

    @property
    def statuses(self) -> dict[str, int]:
        """The number of runs of each status."""
        found = [entry.run.status for entry in self.entries]
        return {status: found.count(status) for status in (*STATUSES, *UNFINISHED) if status in found}

    @property
    def best(self) -> Best | None:
        """The best value of its runs; None: it is not known yet. A run that diverged early has only a training loss."""
        known = [entry.details.best for entry in self.entries if entry.details and entry.details.best]
        known.sort(key=lambda best: best.metric.name == TRAIN_LOSS)
        same = [best for best in known if best.metric == known[0].metric]
        return min(same, key=lambda best: best.metric.cost(best.value), default=None)


class Index:
    """The runs and sweeps below a folder.

    Args:
        folder: links that lead out of it are not followed.
        pause: seconds between two looks at it.
    """

    def __init__(self, folder: Path, pause: float = PAUSE) -> None:
        self.folder = folder
        self._pause = pause
        self._root = folder.resolve()
        self._lock = threading.RLock()
        self._work = threading.Event()
        self._entries: dict[str, Entry] = {}
        self._gone: dict[str, int] = {}  # the number of the change by which a run disappeared
        self._waiting: list[Entry] = []  # for their details, the newest last
        self._version = 0
        self._looked = -pause

    def start(self) -> Index:
        """Read configs and curves in a thread from now on."""
        threading.Thread(target=self._read_for_good, name="lrflow-dashboard", daemon=True).start()
        return self

    def entries(self) -> list[Entry]:
        """Return all runs as they are now, the newest first."""
        with self._lock:
            self._look()
            return sorted(self._shown(), key=lambda entry: start_of(entry.run), reverse=True)

    def entry(self, wanted: str) -> Entry | None:
        """Return the run with an id; None: there is none, or none any more."""
        with self._lock:
            self._look()
            found = self._entries.get(wanted)
        return found if found and self._is_inside(found.run.folder) else None

    def changes(self, since: int) -> tuple[int, list[Entry], list[str]]:
        """Return the number of the latest change, the runs that changed after another one, and the ids of those gone.

        Args:
            since: the number of the change that the reader knows; 0: none.
        """
        with self._lock:
            self._look()
            changed = [entry for entry in self._shown() if entry.version > since]
            return self._version, changed, [name for name, version in self._gone.items() if version > since]

    def sweeps(self, entries: Iterable[Entry]) -> list[Sweep]:
        """Return the sweeps of these runs, in the order of their first runs."""
        parents: dict[Path, list[Entry]] = {}
        for entry in entries:
            parents.setdefault(entry.run.folder.parent, []).append(entry)
        return [
            Sweep(_id(name), name, folder, found)
            for folder, found in parents.items()
            if any((folder / record).is_file() for record in (RECORD, GRID_RECORD))
            for name in [self._name(folder)]
        ]

    @property
    def unread(self) -> int:
        """The number of runs whose details have not been read yet."""
        return len(self._waiting)

    def read_details(self) -> None:
        """Read the details of all runs that wait for it."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._work.clear()
                    return
                entry = self._waiting.pop()
            details = _details(entry)
            with self._lock:
                if self._entries.get(entry.id) is not entry:
                    continue
                self._version += 1
                entry.details, entry.version = details, self._version
                if not entry.run.is_training:
                    self._gone[entry.id] = self._version

    def _read_for_good(self) -> None:
        import lrflow.reports.run_course  # noqa: F401  # takes seconds, and the list does not need it

        while self._work.wait():
            self.read_details()

    def _shown(self) -> Iterator[Entry]:
        """Yield the runs, without those of other tasks as far as their configs are known."""
        return (each for each in self._entries.values() if each.details is None or each.run.is_training)

    def _look(self) -> None:
        """Compare the folder with what is known of it, unless that was done a moment ago."""
        if time.monotonic() - self._looked < self._pause:
            return
        found: dict[str, Entry] = {}
        unread: list[Entry] = []
        settled = self._settled()
        for path in run_folders(self.folder, settled):
            entry = settled.get(str(path))
            if entry is None:
                name = self._name(path)
                entry = self._current(path, name, self._entries.get(_id(name)), unread)
            if entry is not None:
                found[entry.id] = entry
        self._version += 1
        self._gone |= dict.fromkeys(self._entries.keys() - found.keys(), self._version)
        self._entries = found
        shown = {entry.id for entry in self._shown()}
        self._gone = {name: version for name, version in self._gone.items() if name not in shown}
        waiting = {entry.id: entry for entry in (*self._waiting, *unread) if found.get(entry.id) is entry}
        self._waiting = sorted(waiting.values(), key=lambda entry: start_of(entry.run))
        self._looked = time.monotonic()
        if self._waiting:
            self._work.set()

    def _settled(self) -> dict[str, Entry]:
        """Return the runs that have ended and whose folders have not changed, by path.

        lrflow replaces files as a whole, which changes the time of their folder. A time of a moment ago is not trusted,
        since a further change may leave it as it is.
        """
        found = {}
        trusted = time.time_ns() - _TICK
        for entry in self._entries.values():
            if entry.run.outcome is not None and 0 < entry.changed < trusted:
                path = str(entry.run.folder)
                if _time_of(path) == entry.changed:
                    found[path] = entry
        return found

    def _current(self, path: Path, name: str, known: Entry | None, unread: list[Entry]) -> Entry | None:
        """Return the run in a folder as it is now; None: it is gone, or a link leads out of the folder."""
        changed = _time_of(path)
        states = {file: self._state(path / file) for file in _FILES}
        if None in states.values():
            return None
        facts, curve = tuple(states[file] for file in _FACTS), states[_METRICS] or ()
        if known and known.facts == facts:
            if known.run.outcome is None:  # it may have been started or killed since
                run = known.run.now()
                if run.status != known.run.status:
                    known.run, known.version = run, self._version + 1
            if known.curve != curve:
                known.curve = curve
                unread.append(known)
            known.changed = changed
            return known
        run = Run(path)
        _ = run.status  # as it is now: the next look compares
        entry = Entry(_id(name), name, run, facts, curve, changed, self._version + 1)
        if known:  # the curve goes on, and what is shown of it stays until it is read again
            entry.details, entry.file = known.details, known.file
        unread.append(entry)
        return entry

    def _state(self, path: Path) -> tuple[object, ...] | None:
        """Return the time and size of a file, empty if there is none; None: it is a link that leads out."""
        try:
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                if not self._is_within(path):
                    return None
                found = os.stat(path)
        except OSError:
            return ()
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def _is_inside(self, folder: Path) -> bool:
        """Return whether a run folder is still there, and neither it nor what pages read of it leads elsewhere."""
        try:
            rollbacks = list((folder / ROLLBACKS).glob("*.csv"))
        except OSError:
            rollbacks = []
        within = all(self._is_within(path) for path in (folder, *rollbacks))
        return within and folder.is_dir() and all(self._state(folder / file) is not None for file in _FILES)

    def _is_within(self, path: Path) -> bool:
        """Return whether a path leads to something below the folder; links that lead in a circle lead nowhere."""
        try:
            return path.resolve().is_relative_to(self._root)
        except (OSError, RuntimeError):
            return False

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _time_of(folder: str | Path) -> int:
    """Return when a folder was changed, in nanoseconds; 0: it is gone."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _id(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def _details(entry: Entry) -> Details:
    """Read the config and the curve of a run, as far as they can be read."""
    from lrflow.reports.run_course import Course, is_of_the_machinery

    try:
        run = entry.run
        if not run.config or not run.is_training:
            return Details()
        if entry.file is None:
            entry.file = GrowingFile(run.folder / _METRICS, lambda column: not is_of_the_machinery(column))
        course = Course(run, entry.file)
        name = course.main
        shown = name if name and len(course.history[name]) > 1 else TRAIN_LOSS
        curve = course.history[shown].smoothed(POINTS)
        best = course.best(name) if name else None
        details = Details(name, best, curve, shown, course.last_step, course.planned_steps)
    except Exception as error:  # of a folder of another version, or one that is half written
        log.debug("%s: %s: %s", entry.run.folder, type(error).__name__, error)
        details = Details()
    if not entry.is_going_on:
        entry.file = None  # a thousand curves take more memory than they are worth
    return details
