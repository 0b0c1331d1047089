"""Models that train well by default, with named parts that layer rules select."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.models.small import CNN, MLP, Logistic, ResNet, TableNet
    from lrflow.models.transformer import Transformer

__all__ = ["CNN", "MLP", "Logistic", "ResNet", "TableNet", "Transformer"]

__getattr__ = lazily(
    __name__,
    {
        "CNN": "small",
        "Logistic": "small",
        "MLP": "small",
        "ResNet": "small",
        "TableNet": "small",
        "Transformer": "transformer",
    },
)
