"""Columns of metrics.csv in which equal runs differ: what a clock or the machine gave."""

from __future__ import annotations

VARYING = ("train/step_time", "train/data_time", "throughput/", "memory/")


def varies(column: str) -> bool:
    """Whether equal runs differ in a column."""
    return column.startswith(VARYING)
