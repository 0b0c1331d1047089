"""Models that train well by default, with named parts that layer rules select."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.models.drop_path import DropPath
    from lrflow.models.small import CNN, MLP, Logistic, ResNet, TableNet
    from lrflow.models.transformer import Transformer

__all__ = ["CNN", "MLP", "DropPath", "Logistic", "ResNet", "TableNet", "Transformer"]

__getattr__ = lazily(
    __name__,
    {
        "CNN": "small",
        "DropPath": "drop_path",
        "Logistic": "small",
        "MLP": "small",
        "ResNet": "small",
        "TableNet": "small",
        "Transformer": "transformer",
    },
)
