"""task=find: find the learning rate, by a range test or by the stability bound, and say how sure it is."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from lrflow.config import Config, save_config
from lrflow.config.settings import StabilityFind
from lrflow.console import QuietConsole
from lrflow.tasks.find.range_test import find_range
from lrflow.tasks.find.stability import find_ceiling
from lrflow.tasks.train import open_folder, own_environment
from lrflow.training.ranks import rank


def run(config: Config) -> dict[str, Any]:
    """Find the LR as `find` says.

    Returns:
        `lr`, its interval `low` to `high` and `doubts` (range test), or `ceiling` and `sharpness` (stability bound);
        `folder`.

    Raises:
        ConfigError: this optimizer has no LR to be found so, or the range does not hold it.
    """
    folder = open_folder(config, None, f"find-{config.title}")
    console = QuietConsole(quiet=rank() > 0)
    with own_environment(folder):
        if rank() == 0:
            save_config(config, folder.config)  # further devices read it there
        try:
            if isinstance(config.find, StabilityFind):
                found = find_ceiling(config, config.find, folder.path, console)
            else:
                found = find_range(config, config.find, folder.path, console)
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
