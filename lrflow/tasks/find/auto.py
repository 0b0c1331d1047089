"""What a run does about its LR before it starts: find one (optimizer.lr=auto), or judge its own (find.check)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from lrflow.config import Config, validate
from lrflow.config.find import RangeFind
from lrflow.errors import LrflowError
from lrflow.runs import RunFolder
from lrflow.tasks.find import look
from lrflow.training.ranks import rank


def settle_lr(config: Config, folder: RunFolder, console: Console) -> Config:
    """The config of a run, with the LR that a range test finds in the place of `auto`.

    Args:
        config: as it was typed.
        folder: of the run; what was seen is kept there.
        console: is told what is found.

    Raises:
        LrflowError: an LR was to be found, and there is none that one can be confident of.
    """
    try:
        found = look(config, folder, console)
    finally:
        if rank() == 0:
            with suppress(OSError):
                folder.config.unlink()  # the run's own comes when it begins
    if not config.finds_lr:
        return config
    if found["doubts"]:
        raise LrflowError(
            f"no LR was found that one can be confident of: {'; '.join(found['doubts'])}\n"
            f"    optimizer.lr={found['lr']:.2g} takes the answer all the same; {folder.path / 'find.png'} shows it"
        )
    return _with_lr(config, found)


def _with_lr(config: Config, found: dict[str, Any]) -> Config:
    """The config with the number that was found, and with how it was found (`find.found`).

    Both are in the config.yaml of the run, which a resumed run takes: so it does not look for the LR again.
    """
    assert isinstance(config.find, RangeFind)
    lr, interval = float(f"{found['lr']:.3g}"), [float(f"{found[end]:.3g}") for end in ("low", "high")]
    how = f"range test of {config.find.sweep_count} sweeps" + (", settled by trial runs" if config.find.confirm else "")
    source = config.source.copy()
    OmegaConf.update(source, "optimizer.lr", lr)
    record = {"lr": lr, "interval": interval, "how": how, "steps": found["steps"]}
    OmegaConf.update(source, "find.found", record, force_add=True)
    return validate(source, config.choices, config.overrides, config.run_folder, config.directions.metrics())
