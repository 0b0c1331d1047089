"""lrflow: declarative training for PyTorch with the learning rate at its heart."""

from pathlib import Path

__version__ = "0.1.0"

# A wheel has `conf` and `recipes` inside this package; a source tree has them beside it.
_root = Path(__file__).resolve().parent.parent
if not (Path(__file__).resolve().parent / "conf").is_dir() and (_root / "conf").is_dir():
    __path__.append(str(_root))
