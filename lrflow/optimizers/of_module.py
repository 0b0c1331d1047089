"""The optimizer of `optimizer=module`: a name in the config for the one that the LightningModule itself makes."""

from __future__ import annotations

from typing import Any


class OfModule:
    """Stands for the optimizer that the LightningModule's own `configure_optimizers` makes; it is never built.

    Args:
        params: the parameters.
        lr: factor on the LRs that the module gives its groups.
    """

    def __init__(self, params: Any, lr: float = 1.0) -> None:
        raise TypeError("the module's own configure_optimizers makes the optimizer")
