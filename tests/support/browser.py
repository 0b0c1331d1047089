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


def shown(page: Path | str, folder: Path, size: tuple[int, int] = (1280, 3000), budget: int = 20_000) -> Shown:
    """Open a page or an address.

    Args:
        page: a file, or the address of a page.
        folder: receives the browser's own files.
        size: of the window, in pixels.
        budget: milliseconds of the page's own time until it is read.
    """
    folder.mkdir(exist_ok=True)
    address = page if isinstance(page, str) else page.absolute().as_uri()
    picture = folder / "page.png"
    words = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={folder / 'browser'}", "--enable-logging=stderr", "--v=0", f"--virtual-time-budget={budget}",
        "--window-size={},{}".format(*size), "--dump-dom", f"--screenshot={picture}", address,
    ]  # fmt: skip
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    console = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    return Shown(ended.stdout, console, matplotlib.image.imread(picture))
