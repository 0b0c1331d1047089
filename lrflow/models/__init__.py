"""Small models that train well by default, with stages whose names make good groups."""

from lrflow.models.cnn import CNN
from lrflow.models.dense import MLP, Logistic
from lrflow.models.resnet import ResNet

__all__ = ["CNN", "MLP", "Logistic", "ResNet"]
