from __future__ import annotations

from run_folders import run_folder

__all__ = ["run_folder"]
