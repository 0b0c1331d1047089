"""task=find: find the learning rate, by a range test or by the stability bound, and say how sure it is."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from rich.console import Console

from lrflow.config import Config, save_config
from lrflow.config.find import StabilityFind
from lrflow.display import QuietConsole
from lrflow.runs import RunFolder
from lrflow.tasks.find.range_test import find_range
from lrflow.tasks.find.stability import find_ceiling
from lrflow.tasks.record import open_folder, own_environment
from lrflow.training.random_state import random_state_kept
from lrflow.training.ranks import rank


def run(config: Config) -> dict[str, Any]:
    """Find the LR as `find` says.

    Returns:
        What `look` does, and `folder`.

    Raises:
        ConfigError: this optimizer has no LR to be found so, or the range does not hold it.
        EndedEarlyError: something ended one of the short runs before its last step.
    """
    folder = open_folder(config, None, f"find-{config.title}")
    console = QuietConsole(quiet=rank() > 0)
    with own_environment(folder):
        try:
            found = look(config, folder, console)
        except BaseException:
            if rank() == 0:
                with suppress(OSError):
                    folder.config.unlink()
                    folder.discard()
            raise
    if rank() == 0:
        folder.write_environment()
        written = ", ".join(sorted(path.name for path in folder.path.glob("find.*")))
        console.print(f"{folder.path}/: {written}", soft_wrap=True, highlight=False)
    return {**found, "folder": str(folder.path)}


def look(config: Config, folder: RunFolder, console: Console) -> dict[str, Any]:
    """Find the LR for a run, and keep in its folder what was seen; random numbers go on as if nothing had been drawn.

    Args:
        config: of the run; it is saved in the folder, where further devices read it.
        folder: of the run.
        console: is told what is found.

    Returns:
        `lr`, its interval `low` to `high`, `doubts` and `steps` (range test), or `ceiling` and `sharpness` (stability
        bound).
    """
    if rank() == 0:
        save_config(config, folder.config)
    with random_state_kept():
        if isinstance(config.find, StabilityFind):
            return find_ceiling(config, config.find, folder.path, console)
        return find_range(config, config.find, folder.path, console)
