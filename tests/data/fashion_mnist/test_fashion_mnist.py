from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lrflow.data import FashionMNIST
from lrflow.data.fashion_mnist import files as fashion_mnist_files
from lrflow.errors import ConfigError, LrflowError

SMALL = {"examples": 200, "shape": [1, 4, 4], "outputs": 10, "loss": "cross_entropy"}
Put = Callable[..., Path]


@pytest.mark.parametrize("packed", [True, False])
def test_images_are_read_normalised_and_split(nowhere: Path, put: Put, packed: bool) -> None:
    module = FashionMNIST(root=put(nowhere / "mine", packed), batch_size=16, val_size=50, facts=SMALL)
    module.prepare_data()
    module.setup()
    assert [len(part) for part in (module.train_set, module.val_set, module.test_set)] == [150, 50, 40]
    for part in (module.train_set, module.val_set, module.test_set):
        images, labels = part.tensors
        assert images.shape[1:] == (1, 4, 4)
        assert images.dtype == torch.float32
        # The pictures were made so that a pixel is 20 times the label.
        expected = (labels * 20 / 255 - 0.2860) / 0.3530
        assert torch.allclose(images, expected[:, None, None, None].expand_as(images), atol=1e-6)
    assert torch.bincount(module.val_set.tensors[1]).tolist() == [5] * 10
    assert len(module.train_dataloader()) == 9


def test_mean_and_std_are_those_of_the_published_images() -> None:
    if fashion_mnist_files.locate() is None:
        pytest.skip("FashionMNIST is not on this machine: python -m lrflow.data.fetch fashion_mnist")
    module = FashionMNIST(val_size=0)
    module.setup()
    images = module.train_set.tensors[0].double()
    assert abs(images.mean()) < 2e-4
    assert abs(images.std() - 1) < 2e-4


def test_the_folders_are_searched_in_order(
    nowhere: Path, put: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def found() -> Path:
        return FashionMNIST(download=False).paths()["train-images-idx3-ubyte"].parent

    monkeypatch.setenv("LRFLOW_DATA", str(tmp_path / "chosen"))
    # From the last place to the first: each hides those before.
    for place in [
        tmp_path / "cache/lrflow/fashion-mnist",
        fashion_mnist_files.SYSTEM,
        Path(".data/debian/usr/share/datasets/fashion-mnist"),
        Path(".data/fashion-mnist"),
        tmp_path / "chosen/fashion-mnist",
    ]:
        put(place)
        assert found() == place


def test_a_folder_without_all_files_is_skipped(nowhere: Path, put: Put) -> None:
    put(fashion_mnist_files.SYSTEM)
    broken = put(Path(".data/fashion-mnist"))
    (broken / "t10k-labels-idx1-ubyte.gz").unlink()
    assert FashionMNIST(download=False).paths()["train-images-idx3-ubyte"].parent == fashion_mnist_files.SYSTEM


def test_missing_files_are_reported_with_the_ways_to_get_them(nowhere: Path) -> None:
    with pytest.raises(LrflowError) as raised:
        FashionMNIST(download=False).setup()
    for text in (
        ".data/fashion-mnist",
        str(fashion_mnist_files.SYSTEM),
        "data.download=false",
        "apt install dataset-fashion-mnist",
        "dpkg-deb -x",
        "python -m lrflow.data.fetch fashion_mnist",
        "train-images-idx3-ubyte.gz",
    ):
        assert text in str(raised.value)


def test_a_failed_download_reports_the_error_of_each_source(nowhere: Path) -> None:
    with pytest.raises(LrflowError, match=r"127\.0\.0\.1:9/train-images-idx3-ubyte.gz: .*refused"):
        FashionMNIST().setup()


def test_a_root_without_the_files_is_not_replaced_by_another_folder(nowhere: Path, put: Put) -> None:
    put(Path(".data/fashion-mnist"))
    with pytest.raises(ConfigError, match=r"data\.root = 'mine'"):
        FashionMNIST(root="mine", download=False).setup()


def test_files_that_do_not_belong_together_are_reported(nowhere: Path, put: Put, idx: Callable[..., bytes]) -> None:
    folder = put(Path("mine"))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(199, np.uint8))))
    with pytest.raises(LrflowError, match=r"do not belong together: shapes \(200, 4, 4\) and \(199,\)"):
        FashionMNIST(root=folder, facts=SMALL, val_size=0).setup()


def test_images_that_differ_from_the_facts_are_reported(nowhere: Path, put: Put) -> None:
    facts = {"examples": 60000, "shape": [1, 28, 28], "outputs": 10}
    with pytest.raises(ConfigError) as raised:
        FashionMNIST(root=put(Path("mine")), facts=facts).setup()
    assert [problem.key for problem in raised.value.problems] == [
        "data.facts.examples",
        "data.facts.shape",
        "data.val_size",
    ]
