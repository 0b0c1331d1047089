"""lrflow: declarative training for PyTorch with the learning rate at its heart."""

from pathlib import Path

__version__ = "0.1.0"

# In a wheel `conf` and `recipes` lie inside this package; in a source tree they stand beside it.
_root = Path(__file__).resolve().parent.parent
if not (Path(__file__).resolve().parent / "conf").is_dir() and (_root / "conf").is_dir():
    __path__.append(str(_root))
