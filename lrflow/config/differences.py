"""How the config of a run differs from what its options and lrflow's defaults give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from lrflow.config.composition.compose import composer
from lrflow.config.composition.interpolation import resolve_hydra_and_now
from lrflow.config.composition.options import ACROSS_GROUPS, Catalogue
from lrflow.config.composition.overrides import Override
from lrflow.config.validation import META

_NOT_OF_THE_JOB = (META, "hydra", "trial", "resume", "output", "against")


@dataclass(frozen=True)
class OwnSettings:
    """What a run sets itself.

    Args:
        options: the options that are not the default ones, by group; None: an option that is not one of lrflow's.
        usual: the default option of each group.
        defaults: the config that these options of lrflow's give.
        content: the config of the run, with unresolved interpolations.
    """

    options: dict[str, str | None]
    usual: Mapping[str, str | None]
    defaults: dict[str, Any]
    content: dict[str, Any]

    @classmethod
    def of(cls, saved: DictConfig) -> OwnSettings:
        """Return what the config of a run sets, as its config.yaml gives it."""
        content = content_of(saved)
        usual, catalogue, _ = shipped(())
        changed = {
            group: option
            for group, option in saved[META].choices.items()
            if group in usual and group not in ACROSS_GROUPS and option != usual[group]
        }
        options = {group: option if option in catalogue.options(group) else None for group, option in changed.items()}
        *_, defaults = shipped(tuple(Override(group, option) for group, option in options.items() if option))
        return cls(options, usual, defaults, content)

    @property
    def values(self) -> dict[str, Any]:
        """The values that the options do not give, nested as in the config."""
        return differences(self.content, self.defaults)


@cache
def shipped(options: tuple[Override, ...]) -> tuple[Mapping[str, str | None], Catalogue, dict[str, Any]]:
    """Return the chosen options, all options, and the content of the config that options of lrflow's give.

    They stay the same within a process, so that they are composed once. They must not be changed.
    """
    with _own_hydra(), composer() as composing:
        found = composing(options)
        return found.choices, composing.catalogue, content_of(found.content)


def composed(overrides: Sequence[Override], folder: Path | None = None) -> dict[str, Any]:
    """Return the content of the config that these overrides give, also within a job of Hydra.

    Args:
        overrides: options and values.
        folder: with further options.
    """
    with _own_hydra(), composer(folder) as composing:
        return content_of(composing(overrides).content)


def content_of(config: DictConfig) -> dict[str, Any]:
    """Return the part of a config that describes the training, with unresolved interpolations."""
    resolve_hydra_and_now(config)
    content: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in content.items() if key not in _NOT_OF_THE_JOB}


def differences(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config that differ from the defaults."""
    found = {}
    for key, value in config.items():
        default = defaults.get(key, ...)
        if isinstance(value, dict) and isinstance(default, dict):
            if below := differences(value, default):
                found[key] = below
        elif value != default or type(value) is not type(default):
            found[key] = value
    return found


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Allow composing a config within a job of Hydra, whose state is global to the process."""
    state = GlobalHydra.instance()
    running, state.hydra = state.hydra, None
    try:
        yield
    finally:  # of the present object: composing leaves another one
        GlobalHydra.instance().hydra = running
