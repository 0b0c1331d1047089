"""lrflow's own callbacks for the group `callbacks`."""

from lrflow.callbacks.throughput import Throughput

__all__ = ["Throughput"]
