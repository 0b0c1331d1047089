"""Opens a page in Debian's Chromium, without a screen, and reads what it shows and reports."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import matplotlib.image
import numpy as np
import pytest

needs_browser = pytest.mark.skipif(which("chromium") is None, reason="needs chromium: apt-get install chromium")


@dataclass(frozen=True)
class Shown:
    """What a browser shows of a page.

    Args:
        dom: the document after its scripts have run.
        console: the lines of the console.
        picture: the picture of the page; [height, width, 4], from 0 to 1.
    """

    dom: str
    console: list[str]
    picture: np.ndarray


def shown(page: Path, folder: Path, size: tuple[int, int] = (1280, 3000)) -> Shown:
    """Open a page; `folder` receives the browser's own files."""
    picture = folder / "page.png"
    words = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={folder / 'browser'}", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000",
        "--window-size={},{}".format(*size), "--dump-dom", f"--screenshot={picture}", page.absolute().as_uri(),
    ]  # fmt: skip
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    console = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    return Shown(ended.stdout, console, matplotlib.image.imread(picture))
