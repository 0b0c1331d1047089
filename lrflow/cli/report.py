"""`lrflow report`: make the pages of runs, range tests, forecasts and sweeps anew; and the page of `lrflow compare`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import is_file, is_folder
from lrflow.output import put
from lrflow.remote import download, is_url
from lrflow.reports.compare_page import write_comparison
from lrflow.reports.find_page import write_find_page
from lrflow.reports.forecast_page import FORECAST, write_forecast_page
from lrflow.reports.run_page import write_run_page
from lrflow.reports.runs import Run, find_run
from lrflow.reports.sweep import write_sweep_page

_USAGE = "lrflow report RUN: the folder of a run or a sweep, a part of a run's name, or last"


def write_reports(wanted: Sequence[str], output: Path) -> None:
    """Write the page of each run, range test or sweep into its folder, and print the paths.

    Args:
        wanted: folders, addresses, parts of names, or `last`.
        output: folder of the run folders.

    Raises:
        ConfigError: there is no such run.
        LrflowError: a page cannot be written.
    """
    if not wanted:
        raise ConfigError([Problem("lrflow report", "needs a run or a sweep", hint=_USAGE)])
    for folder in [folder_of(word, output) for word in wanted]:
        try:
            put(sys.stdout, f"{_write(folder)}\n")
        except OSError as error:
            raise LrflowError(f"{folder}: its page cannot be written: {error.strerror or error}") from error


def write_comparison_page(runs: Sequence[Run], page: str) -> None:
    """Write the page that compares runs, and print its path.

    Raises:
        ConfigError: the path is not that of a page.
        LrflowError: the page cannot be written.
    """
    path = Path(page)
    if path.suffix.lower() not in (".html", ".htm") or not is_folder(path.parent):
        message = "expected the path of an HTML file in a folder that exists"
        raise ConfigError([Problem("page", message, page, "such as page=comparison.html")])
    try:
        put(sys.stdout, f"{write_comparison(runs, path)}\n")
    except OSError as error:
        raise LrflowError(f"{path}: cannot be written: {error.strerror or error}") from error


def folder_of(word: str, output: Path) -> Path:
    """Return the folder of a run, a range test or a sweep; an address is downloaded.

    Args:
        word: a folder, its name below `output`, an address, `last`, or a part of the name of one run.
        output: folder of the run folders.

    Raises:
        ConfigError: there is no such run.
    """
    if is_url(word):
        return download(word, "run")
    for folder in (Path(word), output / word, output / "sweeps" / word):
        known = any(is_file(folder / name) for name in ("config.yaml", FORECAST))
        if word and (known or (is_folder(folder) and any(folder.glob("*/config.yaml")))):
            return folder
    return find_run(word, output).folder


def _write(folder: Path) -> Path:
    if is_file(folder / FORECAST):  # which has no config
        return write_forecast_page(folder)
    if not is_file(folder / "config.yaml"):
        return write_sweep_page(folder)
    if Run(folder).config.get("task") == "find":
        try:
            return write_find_page(folder)
        except (FileNotFoundError, KeyError, TypeError, ValueError):  # of a batch size, or of a stability bound
            raise LrflowError(f"{folder}: it holds no range test, and other searches have no page") from None
    return write_run_page(folder)
