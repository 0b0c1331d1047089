"""Fetches data sets into this folder's `.data`: `python -m lrflow.data.fetch fashion_mnist`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lrflow.data import sources
from lrflow.errors import LrflowError


def fetch_fashion_mnist(folder: Path) -> str:
    """Gets FashionMNIST into `folder/fashion-mnist`, from Debian's package or else from its authors.

    Args:
        folder: usually `.data`, where `data=fashion_mnist` looks.

    Returns:
        What was done, in a line.

    Raises:
        LrflowError: neither source had it.
    """
    target = folder / "fashion-mnist"
    if sources.find(target):
        return f"FashionMNIST is in {target} already"
    try:
        sources.unpack_debian(target)
        return f"FashionMNIST is in {target}, from Debian's package {sources.PACKAGE}"
    except LrflowError as no_debian:
        try:
            sources.download(target)
        except LrflowError as no_download:
            raise LrflowError(f"{no_debian}\n{no_download}") from no_download
        return f"FashionMNIST is in {target}, from its authors"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lrflow.data.fetch", description="Fetch a data set.")
    parser.add_argument("name", choices=["fashion_mnist"])
    parser.add_argument("--folder", type=Path, default=Path(".data"), help="where to keep it (default: .data)")
    chosen = parser.parse_args(arguments)
    try:
        print(fetch_fashion_mnist(chosen.folder))
    except LrflowError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
