"""An earlier sweep that goes on: its overrides, with what is typed on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrflow.config.earlier import OUTPUT
from lrflow.config.overrides import Override


def with_earlier_sweep(overrides: Sequence[Override]) -> list[Override]:
    """The overrides of the sweep that `sweep.resume=` speaks of, and then those that are typed.

    Args:
        overrides: as typed, short forms written out.

    Raises:
        ConfigError: there is no such sweep.
    """
    typed = {override.key: override for override in overrides}
    asked = typed.get("hydra.sweeper.resume")
    if asked is None or asked.value in (None, "null"):
        return list(overrides)
    from lrflow.sweeps.reading import find_sweep
    from lrflow.sweeps.record import read_record

    output = Path(typed["output"].plain if "output" in typed else OUTPUT)
    folder = find_sweep(asked.plain, output, "sweep.resume", searched=True)
    own = ("hydra.sweeper.resume", "hydra.sweep.dir")
    before = [Override.read(text) for text in read_record(folder)["overrides"]]
    kept = [override for override in before if override.key not in typed and override.key not in own]
    rest = [override for override in overrides if override.key not in own]
    return [*kept, *rest, *(Override.path(key, folder) for key in own)]
