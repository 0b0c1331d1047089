"""Fetches data sets into this folder's `.data`: `python -m lrflow.data.fetch fashion_mnist wordnet`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lrflow.data import sources, wordnet
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


def fetch_wordnet(folder: Path) -> str:
    """Gets the nouns of WordNet into `folder/wordnet`, from Debian's package.

    Args:
        folder: usually `.data`.

    Returns:
        What was done, in a line.

    Raises:
        LrflowError: there is no such package here.
    """
    target = folder / "wordnet"
    if (target / wordnet.FILE).is_file():
        return f"WordNet is in {target} already"
    wordnet.unpack_debian(target)
    return f"WordNet is in {target}, from Debian's package {wordnet.PACKAGE}"


FETCH = {"fashion_mnist": fetch_fashion_mnist, "wordnet": fetch_wordnet}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lrflow.data.fetch", description="Fetch data sets.")
    parser.add_argument("names", nargs="+", choices=FETCH, metavar="name", help=f"what to fetch: {', '.join(FETCH)}")
    parser.add_argument("--folder", type=Path, default=Path(".data"), help="where to keep it (default: .data)")
    chosen = parser.parse_args(arguments)
    exit_code = 0
    for name in chosen.names:
        try:
            print(FETCH[name](chosen.folder))
        except LrflowError as error:  # one that cannot be had does not keep the others away
            print(error, file=sys.stderr)
            exit_code = error.exit_code
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
