"""optimizer.lr=auto: the LR of a run, found before it starts and written down as if it had been typed."""

from __future__ import annotations

from contextlib import suppress

from omegaconf import OmegaConf
from rich.console import Console

from lrflow.config import Config, save_config, validate
from lrflow.config.settings import RangeFind
from lrflow.errors import LrflowError
from lrflow.runs import RunFolder
from lrflow.tasks.find.range_test import find_range
from lrflow.training.ranks import rank


def settle_lr(config: Config, folder: RunFolder, console: Console) -> Config:
    """The config of a run with the LR that a range test finds in the place of `auto`.

    The saved config says the number, its interval and how it was found (`find.found`), and so do the overrides that a
    resumed run takes: it is not looked for again.

    Args:
        config: as it was typed.
        folder: of the run; the range test is kept there.
        console: is told what is found.

    Raises:
        LrflowError: there is no answer that one can be confident of.
    """
    assert isinstance(config.find, RangeFind)
    if rank() == 0:
        save_config(config, folder.config)  # further devices read it there
    try:
        found = find_range(config, config.find, folder.path, console)
    finally:
        if rank() == 0:
            with suppress(OSError):
                folder.config.unlink()  # the run's own comes when it begins
    if found["doubts"]:
        raise LrflowError(
            f"no LR was found that one can be confident of: {'; '.join(found['doubts'])}\n"
            f"    optimizer.lr={found['lr']:.2g} takes the answer all the same; {folder.path / 'find.png'} shows it"
        )
    lr, interval = float(f"{found['lr']:.3g}"), [float(f"{found[end]:.3g}") for end in ("low", "high")]
    how = f"range test of {config.find.sweeps} sweeps" + (", settled by short runs" if config.find.confirm else "")
    record = {"lr": lr, "interval": interval, "how": how, "steps": found["steps"]}
    source = config.source.copy()
    OmegaConf.update(source, "optimizer.lr", lr)
    OmegaConf.update(source, "find.found", record, force_add=True)
    typed = [text for text in config.overrides if text.partition("=")[0] != "optimizer.lr"]
    told = f"{{lr:{lr},interval:[{interval[0]},{interval[1]}],how:'{how}',steps:{found['steps']}}}"
    return validate(source, config.choices, [*typed, f"optimizer.lr={lr}", f"find.found={told}"], config.run_folder)
