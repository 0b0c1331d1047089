"""Schemas of groups of which several options can be chosen at once: nodes by name, such as the group `augment`."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from lrflow.config.schemas.objects import Node, Section


class NamedNodes(Section):
    """Nodes by name; null switches one off."""

    model_config = ConfigDict(extra="allow")

    @property
    def named(self) -> dict[str, Any]:
        """The nodes by name, in the order of the config, without those that are switched off."""
        return {name: node for name, node in (self.__pydantic_extra__ or {}).items() if node is not None}

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return `_target_` and arguments of each node by name."""
        return {name: node.node() for name, node in self.named.items()}


class Augmentations(NamedNodes):
    """Augmentations of training batches by name, in the order in which they are applied; see `lrflow.augment`."""

    __pydantic_extra__: dict[str, Node | None]
