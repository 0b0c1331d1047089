"""Composition of a sweep's jobs: the options that jobs share are read and merged once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

KEPT = 64
"""How many combinations of options are kept at a time."""


@contextmanager
def options_composed_once() -> Iterator[None]:
    """Within this block Hydra composes a combination of options once; each job gets a copy, and its values on top.

    Hydra 1.3 reads and merges every file again for each job, and with its basic sweeper twice per job. That takes
    longer than a small trial trains. Most jobs of a sweep choose the same options and differ only in values. A file
    that is edited while a sweep runs does not change its later jobs, which were checked before.
    """
    known: dict[Any, DefaultsList] = {}
    composed: dict[int, tuple[Any, DictConfig]] = {}  # by the id of the list of options, which is kept with it
    list_options = config_loader_impl.create_defaults_list
    compose = ConfigLoaderImpl._compose_config_from_defaults_list

    def list_options_once(
        repo: Any, config_name: str | None, overrides_list: Sequence[Override], prepend_hydra: bool, skip_missing: bool
    ) -> DefaultsList:
        values = [override for override in overrides_list if _sets_value(override, repo)]
        options = tuple(override.input_line for override in overrides_list if override not in values)
        sources = tuple((source.provider, source.path) for source in repo.get_sources())
        key = (sources, config_name, prepend_hydra, skip_missing, options)
        if key not in known and len(known) >= KEPT:
            known.clear()
            composed.clear()
        found = known.get(key)
        if found is None:
            found = known.setdefault(
                key, list_options(repo, config_name, list(overrides_list), prepend_hydra, skip_missing)
            )
        return replace(found, config_overrides=values)

    def compose_once(self: ConfigLoaderImpl, defaults: Any, repo: Any) -> DictConfig:
        if id(defaults) not in composed:
            composed[id(defaults)] = (defaults, compose(self, defaults, repo))
        return copy.deepcopy(composed[id(defaults)][1])

    config_loader_impl.create_defaults_list = list_options_once  # type: ignore[assignment]
    ConfigLoaderImpl._compose_config_from_defaults_list = compose_once  # type: ignore[method-assign]
    try:
        yield
    finally:
        config_loader_impl.create_defaults_list = list_options
        ConfigLoaderImpl._compose_config_from_defaults_list = compose  # type: ignore[method-assign]


def _sets_value(override: Override, repo: Any) -> bool:
    """Whether an override sets a value and chooses no option, as Hydra tells them apart."""
    if override.is_sweep_override():
        return False
    return isinstance(override.value(), dict) or not repo.group_exists(override.key_or_group)
