"""Small models that train well by default, with stages whose names make good groups."""

from typing import TYPE_CHECKING

from lrflow.lazy import lazily

if TYPE_CHECKING:
    from lrflow.models.cnn import CNN
    from lrflow.models.dense import MLP, Logistic
    from lrflow.models.resnet import ResNet

__all__ = ["CNN", "MLP", "Logistic", "ResNet"]

__getattr__ = lazily(
    __name__,
    {"CNN": "cnn", "MLP": "dense", "Logistic": "dense", "ResNet": "resnet"},
)
