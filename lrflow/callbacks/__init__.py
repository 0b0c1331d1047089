"""lrflow's own callbacks for the group `callbacks`."""

from lrflow.callbacks.early_stopping import EarlyStopping
from lrflow.callbacks.ends import early_ends, time_limit
from lrflow.callbacks.throughput import Throughput

__all__ = ["EarlyStopping", "Throughput", "early_ends", "time_limit"]
