"""What lrflow changes in the way in which Hydra keeps its store of options, and finds options in files."""

from __future__ import annotations

import posixpath
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource


def adapt_hydra() -> None:
    """Change how Hydra keeps its store and finds options; to be called before it composes anything."""
    _share_store()
    _keep_inside()


def _share_store() -> None:
    """Keep Hydra from copying its config store for each composition, which takes as long as the rest of it."""
    type(ConfigStore.instance()).__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]


def _keep_inside() -> None:
    """Keep Hydra (1.3) from reading `../../private.yaml` as an option that a list of defaults names."""
    find = ConfigRepository._find_object_source
    if getattr(find, "stays_inside", False):
        return

    def find_inside(repository: ConfigRepository, config_path: str, object_type: ObjectType) -> ConfigSource | None:
        path = posixpath.normpath(config_path.replace("\\", "/") or ".")
        is_outside = path == ".." or path.startswith(("../", "/"))
        return None if is_outside else find(repository, config_path, object_type)

    find_inside.stays_inside = True  # type: ignore[attr-defined]
    replacement: Any = find_inside
    ConfigRepository._find_object_source = replacement  # type: ignore[method-assign]
