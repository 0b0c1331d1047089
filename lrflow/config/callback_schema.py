"""Schemas of the group `callbacks`."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from lrflow.config.schema import Node, Section


class CallbackNode(Node):
    """A callback: `_target_`, a `pytorch_lightning.Callback`, and its arguments."""


class Callbacks(Section):
    """Callbacks of a run by name, besides lrflow's own; null switches a callback off."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, CallbackNode | None]

    @property
    def named(self) -> dict[str, CallbackNode | None]:
        """The callbacks by name, in the order of the config; None: switched off."""
        return dict(self.__pydantic_extra__ or {})

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return `_target_` and arguments of each callback by name, without those that are switched off."""
        return {name: node.node() for name, node in self.named.items() if node is not None}
