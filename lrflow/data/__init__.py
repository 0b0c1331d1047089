"""Data modules, and a data order from which a run can be resumed at any batch."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.data.digits import Digits
    from lrflow.data.fashion_mnist.fashion_mnist import FashionMNIST
    from lrflow.data.huggingface.huggingface import HuggingFace
    from lrflow.data.images.images import Images
    from lrflow.data.module import DataModule, Examples
    from lrflow.data.order import ShardedBatches, is_ordered, ordered
    from lrflow.data.stream.stream import Stream
    from lrflow.data.table.table import Table
    from lrflow.data.text.text import Text

__all__ = [
    "DataModule",
    "Digits",
    "Examples",
    "FashionMNIST",
    "HuggingFace",
    "Images",
    "ShardedBatches",
    "Stream",
    "Table",
    "Text",
    "is_ordered",
    "ordered",
]

__getattr__ = lazily(
    __name__,
    {
        "DataModule": "module",
        "Digits": "digits",
        "Examples": "module",
        "FashionMNIST": "fashion_mnist.fashion_mnist",
        "HuggingFace": "huggingface.huggingface",
        "Images": "images.images",
        "ShardedBatches": "order",
        "Stream": "stream.stream",
        "Table": "table.table",
        "Text": "text.text",
        "is_ordered": "order",
        "ordered": "order",
    },
)
