"""Where the nouns of WordNet (Fellbaum, 1998) are found, and how they are fetched."""

from __future__ import annotations

from pathlib import Path

from lrflow.data import files
from lrflow.data.files import read_package
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
    searched = files.places("wordnet", SYSTEM) if root is None else [root]
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
    files.keep(read_package(PACKAGE, [SYSTEM / FILE])[SYSTEM / FILE], folder / FILE)
    return folder / FILE
