from __future__ import annotations

from small_runs import network_of_points, one_thread, points, prepare, train

__all__ = ["network_of_points", "one_thread", "points", "prepare", "train"]
