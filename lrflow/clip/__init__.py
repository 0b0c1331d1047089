"""Guards of a step: they clip its gradients, or skip it, before the optimizer uses them."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.clip.adaptive import AdaGC, ZClip
    from lrflow.clip.clip import Clip, Gradients
    from lrflow.clip.fixed import AGC, Norm, Value
    from lrflow.clip.skip import Skip

__all__ = ["AGC", "AdaGC", "Clip", "Gradients", "Norm", "Skip", "Value", "ZClip"]

__getattr__ = lazily(
    __name__,
    {
        "AGC": "fixed",
        "AdaGC": "adaptive",
        "Clip": "clip",
        "Gradients": "clip",
        "Norm": "fixed",
        "Skip": "skip",
        "Value": "fixed",
        "ZClip": "adaptive",
    },
)
