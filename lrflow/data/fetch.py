"""`python -m lrflow.data.fetch fashion_mnist wordnet` fetches data sets into `.data`; also finds WordNet's nouns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lrflow.data import cache
from lrflow.data.cache import read_package
from lrflow.data.fashion_mnist import files as fashion_mnist_files
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import is_file

FILE = "data.noun"  # a line per noun: number, supersense, words, relations, gloss
PACKAGE = "wordnet-base"
SYSTEM = Path("/usr/share/wordnet")  # the folder where that package installs it
ADVICE = f"""Ways to get WordNet:
  python -m lrflow.data.fetch wordnet     into .data/, from Debian
  apt install {PACKAGE}                Debian and Ubuntu, for the whole machine
  apt-get download {PACKAGE} && dpkg-deb -x {PACKAGE}_*.deb .data/debian     without root
  data.root=FOLDER     where {FILE} lies, as WordNet 3.0 has it in its folder dict/"""


def locate(root: Path | None = None) -> Path:
    """Find the file of WordNet's nouns (Fellbaum, 1998).

    Args:
        root: the folder that has it; None: the first of `$LRFLOW_DATA/wordnet`, `.data`, the folder of Debian's package
            and the user's cache that has it.

    Raises:
        ConfigError: `root` does not have it.
        LrflowError: no folder has it; the message lists the folders and how to get the file.
    """
    searched = cache.search_folders("wordnet", SYSTEM) if root is None else [root]
    if found := next((folder / FILE for folder in searched if is_file(folder / FILE)), None):
        return found
    if root is not None:
        raise ConfigError([Problem("data.root", f"there is no {FILE}", str(root), ADVICE)])
    raise LrflowError("\n".join(["WordNet was not found in", *(f"  {folder}" for folder in searched), ADVICE]))


def unpack_debian(folder: Path) -> Path:
    """Read the file of the nouns from Debian's package, without root.

    Args:
        folder: the folder to write to; created if necessary.

    Raises:
        LrflowError: there is no apt here, or apt has no such package.
    """
    cache.write_file(read_package(PACKAGE, [SYSTEM / FILE])[SYSTEM / FILE], folder / FILE)
    return folder / FILE


def fetch_fashion_mnist(folder: Path) -> str:
    """Fetch FashionMNIST into `folder/fashion-mnist`, from Debian's package or else from its authors.

    Args:
        folder: usually `.data`, which `data=fashion_mnist` searches.

    Returns:
        A line that describes what was done.

    Raises:
        LrflowError: neither source has it.
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
    """Fetch the nouns of WordNet into `folder/wordnet`, from Debian's package.

    Args:
        folder: usually `.data`.

    Returns:
        A line that describes what was done.

    Raises:
        LrflowError: there is no apt here, or apt has no such package.
    """
    target = folder / "wordnet"
    if (target / FILE).is_file():
        return f"WordNet is in {target} already"
    unpack_debian(target)
    return f"WordNet is in {target}, from Debian's package {PACKAGE}"


FETCH = {"fashion_mnist": fetch_fashion_mnist, "wordnet": fetch_wordnet}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lrflow.data.fetch", description="Fetch data sets.")
    parser.add_argument("names", nargs="+", choices=FETCH, metavar="name", help=f"what to fetch: {', '.join(FETCH)}")
    parser.add_argument("--folder", type=Path, default=Path(".data"), help="folder to write to (default: .data)")
    chosen = parser.parse_args(arguments)
    exit_code = 0
    for name in chosen.names:
        try:
            print(FETCH[name](chosen.folder))
        except LrflowError as error:  # the other data sets are fetched nevertheless
            print(error, file=sys.stderr)
            exit_code = error.exit_code
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
