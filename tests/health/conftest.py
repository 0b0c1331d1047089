from __future__ import annotations

from small_runs import one_thread, prepare, train

__all__ = ["one_thread", "prepare", "train"]
