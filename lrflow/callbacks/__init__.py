"""lrflow's own callbacks for the group `callbacks`."""

from lrflow.callbacks.early_stopping import EarlyStopping, early_ends
from lrflow.callbacks.throughput import Throughput

__all__ = ["EarlyStopping", "Throughput", "early_ends"]
