from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lrflow.data import FashionMNIST, fetch
from lrflow.data.fashion_mnist import files as fashion_mnist_files
from lrflow.errors import LrflowError


@pytest.fixture
def published(small_fashion: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The small files take the place of those that the authors published."""
    checks = {
        name: fashion_mnist_files.Published(len(content), hashlib.sha256(content).hexdigest())
        for name, content in small_fashion.items()
    }
    monkeypatch.setattr(fashion_mnist_files, "FILES", checks)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def served(
    nowhere: Path, put: Callable[..., Path], published: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Path]:
    """A folder that a server on this machine hands out: the second source, where the first does not answer."""
    folder = put(tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(
            fashion_mnist_files, "URLS", ("http://127.0.0.1:9", f"http://127.0.0.1:{server.server_port}")
        )
        yield folder
        server.shutdown()


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def test_a_download_is_kept_and_not_repeated(served: Path, tmp_path: Path) -> None:
    module = FashionMNIST(val_size=0)
    module.prepare_data()
    cache = tmp_path / "cache/lrflow/fashion-mnist"
    assert listing(cache) == sorted(f"{name}.gz" for name in fashion_mnist_files.FILES)
    for path in served.iterdir():
        assert (cache / path.name).read_bytes() == path.read_bytes()
        path.unlink()
    module.setup()
    assert len(module.train_set) == 200


def test_a_download_goes_where_the_user_keeps_data(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FashionMNIST(root=tmp_path / "root").prepare_data()
    monkeypatch.setenv("LRFLOW_DATA", str(tmp_path / "chosen"))
    FashionMNIST().prepare_data()
    assert listing(tmp_path / "root") == listing(tmp_path / "chosen/fashion-mnist") == listing(served)


def test_only_missing_files_are_downloaded(served: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in list(fashion_mnist_files.FILES)[:3]:
        (served / f"{name}.gz").rename(mine / f"{name}.gz")
    assert set(fashion_mnist_files.download(mine)) == set(fashion_mnist_files.FILES)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda packed: gzip.compress(b"another content"), "the wrong content: its sha256 is"),
        (lambda packed: packed[:-20], "truncated after"),
        (lambda packed: b"<html>Not found</html>", "not a gzip file"),
        (lambda packed: gzip.compress(bytes(10**7)), "the wrong content"),
    ],
)
def test_a_file_that_is_not_the_published_one_raises_an_error(
    served: Path, tmp_path: Path, spoil: Callable[[bytes], bytes], complaint: str
) -> None:
    images = served / "train-images-idx3-ubyte.gz"
    images.write_bytes(spoil(images.read_bytes()))
    with pytest.raises(LrflowError, match=complaint):
        FashionMNIST().prepare_data()
    # Nothing with the file's name was left, nor half a file under another.
    assert listing(tmp_path / "cache/lrflow/fashion-mnist") == []


def test_another_compression_of_the_published_file_is_accepted(served: Path, tmp_path: Path) -> None:
    for path in served.iterdir():
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))
    assert set(fashion_mnist_files.download(tmp_path / "mine")) == set(fashion_mnist_files.FILES)


def test_a_missing_file_is_reported_with_the_error_of_each_source(served: Path) -> None:
    (served / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(LrflowError, match=r"(?s)127\.0\.0\.1:9.*refused.*HTTP Error 404"):
        FashionMNIST().prepare_data()


def test_a_folder_that_cannot_be_written_is_reported(served: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LrflowError, match=r"Not a directory|File exists"):
        FashionMNIST(root=tmp_path / "file" / "mine").prepare_data()


def test_a_full_disk_leaves_no_half_file(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LrflowError, match="No space left on device"):
        fashion_mnist_files.download(tmp_path / "mine")
    assert listing(tmp_path / "mine") == []


# Debian's package, with programs that stand in for apt and dpkg


@pytest.fixture
def debian(
    nowhere: Path,
    put: Callable[..., Path],
    published: None,
    debian_with: Callable[[str, Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A machine whose apt has the data set, as the folder of its programs."""
    monkeypatch.setattr(fashion_mnist_files, "SYSTEM", Path("/usr/share/datasets/fashion-mnist"))
    put(tmp_path / "package/usr/share/datasets/fashion-mnist")
    return debian_with("dataset-fashion-mnist", tmp_path / "package/usr")


def test_debians_package_is_unpacked_without_root(debian: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert fetch.main(["fashion_mnist"]) == 0
    first, again = capsys.readouterr().out.splitlines()
    assert "from Debian's package" in first
    assert "already" in again
    assert listing(Path(".data")) == ["fashion-mnist"]
    assert listing(Path(".data/fashion-mnist")) == sorted(f"{name}.gz" for name in fashion_mnist_files.FILES)
    assert set(FashionMNIST(download=False).paths()) == set(fashion_mnist_files.FILES)


@pytest.mark.parametrize("script", ["echo 'E: Unable to locate package' >&2; exit 100", "exit 7", "exit 0"])
def test_without_debians_package_the_files_are_downloaded(
    debian: Path, served: Path, capsys: pytest.CaptureFixture[str], script: str
) -> None:
    (debian / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    assert fetch.main(["fashion_mnist", "--folder", "elsewhere"]) == 0
    assert "from its authors" in capsys.readouterr().out
    assert listing(Path("elsewhere/fashion-mnist")) == listing(served)


def test_if_neither_source_has_it_both_errors_are_reported(debian: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (debian / "apt-get").write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2; exit 100\n")
    assert fetch.main(["fashion_mnist"]) == 1
    error = capsys.readouterr().err
    assert "E: Unable to locate package" in error
    assert "127.0.0.1:9" in error
    assert "Traceback" not in error


def test_a_machine_without_apt_is_reported(nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LrflowError, match="No such file or directory: 'apt-get'"):
        fashion_mnist_files.unpack_debian(tmp_path / "mine")


def test_a_corrupt_package_raises_an_error(debian: Path, tmp_path: Path) -> None:
    package = tmp_path / "package/usr/share/datasets/fashion-mnist"
    (package / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"other pictures"))
    with pytest.raises(LrflowError, match="the wrong content"):
        fashion_mnist_files.unpack_debian(tmp_path / "mine")
