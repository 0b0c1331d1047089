"""Find the four files of FashionMNIST on this machine, or fetch them from their authors or from Debian."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

from lrflow.data import cache
from lrflow.data.cache import read_package
from lrflow.errors import LrflowError
from lrflow.files import is_file


@dataclass(frozen=True)
class Published:
    """A file as its authors published it.

    Args:
        size: bytes of the uncompressed content.
        sha256: checksum of the uncompressed content. The authors' archives (checked against their published MD5 sums)
            and Debian's are compressed differently but have the same content.
    """

    size: int
    sha256: str


FILES = {
    "train-images-idx3-ubyte": Published(
        47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte": Published(60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte": Published(7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte": Published(10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}
URLS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
)
PACKAGE = "dataset-fashion-mnist"
SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # the folder where that package installs them
ADVICE = f"""Ways to get FashionMNIST:
  python -m lrflow.data.fetch fashion_mnist     into .data/, from Debian or from its authors
  apt install {PACKAGE}             Debian and Ubuntu, for the whole machine
  apt-get download {PACKAGE} && dpkg-deb -x {PACKAGE}_*.deb .data/debian     without root
  data.root=FOLDER     where the four files lie: {", ".join(f"{name}.gz" for name in FILES)}"""


def find(folder: Path) -> dict[str, Path] | None:
    """The four files in a folder, compressed or not, by their names; None unless the folder has all four."""
    paths = {}
    for name in FILES:
        present = [path for path in (folder / f"{name}.gz", folder / name) if is_file(path)]
        if not present:
            return None
        paths[name] = present[0]
    return paths


def search_folders() -> list[Path]:
    """The folders that are searched, in this order."""
    return cache.search_folders("fashion-mnist", SYSTEM)


def locate() -> dict[str, Path] | None:
    """The four files in the first folder that has all of them, or None."""
    return next((paths for folder in search_folders() if (paths := find(folder))), None)


def default_folder() -> Path:
    """The folder for downloads: under `$LRFLOW_DATA` if that is set, else in the user's cache."""
    return cache.default_folder("fashion-mnist")


def download(folder: Path) -> dict[str, Path]:
    """Download the four files from their authors; each is checked before it is written.

    Args:
        folder: the folder to write to; created if necessary. Files that exist are kept.

    Returns:
        The files by name.

    Raises:
        LrflowError: no source returned the published file; the message lists the error of each source.
    """
    for name in FILES:
        if not any(is_file(path) for path in (folder / f"{name}.gz", folder / name)):
            _download(name, folder)
    return find(folder) or {}


def _download(name: str, folder: Path) -> None:
    failures = []
    for url in URLS:
        source = f"{url}/{name}.gz"
        try:
            with urllib.request.urlopen(source, timeout=30) as answer:
                packed = answer.read(FILES[name].size)  # the compressed file is smaller than its content
            _check_and_write(packed, name, folder)
            return
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{source}: {error}")
    raise LrflowError("\n".join(["FashionMNIST could not be downloaded:", *(f"  {line}" for line in failures)]))


def unpack_debian(folder: Path) -> dict[str, Path]:
    """Read the four files from Debian's package with apt and dpkg, without root.

    Args:
        folder: the folder to write to; created if necessary.

    Returns:
        The files by name.

    Raises:
        LrflowError: there is no apt here, or apt has no such package.
    """
    for path, packed in read_package(PACKAGE, [SYSTEM / f"{name}.gz" for name in FILES]).items():
        try:
            _check_and_write(packed, path.stem, folder)
        except (OSError, ValueError) as error:
            raise LrflowError(f"apt-get download {PACKAGE}: {error}") from error
    return find(folder) or {}


def _check_and_write(packed: bytes, name: str, folder: Path) -> None:
    """Write a compressed file if its content is what was published; raise ValueError otherwise."""
    try:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: gzip's header and trailer
        content = unpacker.decompress(packed, FILES[name].size + 1)
    except zlib.error as error:
        raise ValueError(f"not a gzip file: {error}") from error
    if not unpacker.eof and len(content) <= FILES[name].size:
        raise ValueError(f"truncated after {len(packed):,} bytes")
    if (found := hashlib.sha256(content).hexdigest()) != FILES[name].sha256:
        raise ValueError(f"the wrong content: its sha256 is {found}, expected {FILES[name].sha256}")
    cache.write_file(packed, folder / f"{name}.gz")
