"""Fetches data sets into this folder's `.data`: `python -m lrflow.data.fetch fashion_mnist wordnet`.

Where the nouns of WordNet (Fellbaum, 1998) are found, and how they are fetched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lrflow.data import cache, fashion_mnist_files
from lrflow.data.cache import read_package
from lrflow.errors import ConfigError, LrflowError, Problem

FILE = "data.noun"  # a line a noun: its number, its supersense, its words, its relations, its gloss
PACKAGE = "wordnet-base"
SYSTEM = Path("/usr/share/wordnet")  # where that package puts it
ADVICE = f"""Ways to get WordNet:
  python -m lrflow.data.fetch wordnet     into .data/, from Debian
  apt install {PACKAGE}                Debian and Ubuntu, for the whole machine
  apt-get download {PACKAGE} && dpkg-deb -x {PACKAGE}_*.deb .data/debian     without root
  data.root=FOLDER     where {FILE} lies, as WordNet 3.0 has it in its folder dict/"""


def locate(root: Path | None = None) -> Path:
    """The file of the nouns.

    Args:
        root: the folder that has it; None: `$LRFLOW_DATA/wordnet`, `.data`, where Debian's package puts it.

    Raises:
        ConfigError: `root` does not have it.
        LrflowError: it is nowhere; says where it was looked for and how to get it.
    """
    searched = cache.places("wordnet", SYSTEM) if root is None else [root]
    if found := next((folder / FILE for folder in searched if (folder / FILE).is_file()), None):
        return found
    if root is not None:
        raise ConfigError([Problem("data.root", f"there is no {FILE}", str(root), ADVICE)])
    raise LrflowError("\n".join(["WordNet was not found in", *(f"  {folder}" for folder in searched), ADVICE]))


def unpack_debian(folder: Path) -> Path:
    """Fetches the file of the nouns from Debian's package, without root.

    Args:
        folder: where it goes; made if need be.

    Raises:
        LrflowError: there is no apt here, or it has no such package.
    """
    cache.keep(read_package(PACKAGE, [SYSTEM / FILE])[SYSTEM / FILE], folder / FILE)
    return folder / FILE


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
    if fashion_mnist_files.find(target):
        return f"FashionMNIST is in {target} already"
    try:
        fashion_mnist_files.unpack_debian(target)
        return f"FashionMNIST is in {target}, from Debian's package {fashion_mnist_files.PACKAGE}"
    except LrflowError as no_debian:
        try:
            fashion_mnist_files.download(target)
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
    if (target / FILE).is_file():
        return f"WordNet is in {target} already"
    unpack_debian(target)
    return f"WordNet is in {target}, from Debian's package {PACKAGE}"


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
