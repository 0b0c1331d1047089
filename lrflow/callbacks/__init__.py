"""lrflow's own callbacks for the group `callbacks`."""

from lrflow.callbacks.early_stopping import EarlyStopping
from lrflow.callbacks.ends import early_ends, time_limit

__all__ = ["EarlyStopping", "early_ends", "time_limit"]
