"""`data=stream`: batches of samples in shards against tarfile, pyarrow and NumPy; devices, workers, damage."""

from __future__ import annotations

import logging
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shards import digit_samples, digit_shards, digit_tables, npy, write_tar
from sklearn.datasets import load_digits

from lrflow.data import Stream, ordered
from lrflow.data.stream.parts import prepare
from lrflow.errors import ConfigError, ExampleError

DIGITS = {"mode": "L", "size": 8, "batch_size": 32, "shuffle": 100, "shards_at_once": 2}


def made(shards: Any, **options: Any) -> Stream:
    data = Stream(str(shards), **{**DIGITS, **options})
    data.setup("fit")
    return data


def passed(data: Stream, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs and targets of a pass, in its order."""
    batches = list(ordered(data.train_dataloader(), 3, **options))
    return torch.cat([one[0] for one in batches]), torch.cat([one[1] for one in batches])


SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("tar", {}),
    "npy": ("tar", {"input": "npy"}),
    "json": ("tar", {"input": "json.pixels", "target": "json.a.label"}),
    "list": ("parquet", {"input": "pixels"}),
    "image": ("parquet", {"input": "image", "target": "name"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("digits")
    digit_shards(home / "tar")
    digit_tables(home / "parquet")
    return home


@pytest.mark.parametrize("name", SOURCES)
def test_a_pass_has_the_samples_of_all_shards_normalised(name: str, folder: Path) -> None:
    place, options = SOURCES[name]
    data = made(folder / place, val_size=50, test_size=30, check="all", **options)
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (320, 50, 30)  # type: ignore[arg-type]
    inputs, targets = passed(data)
    digits = load_digits()
    wanted = digits.images[:320].reshape(320, -1)
    if name in ("png", "image"):
        wanted = (wanted * 15.9).astype(np.uint8)
    axis = 0 if name in ("json", "list") else None
    std = wanted.std(axis)
    wanted = (wanted - wanted.mean(axis)) / np.where(std == 0, 1, std)
    # Matched by their content, since they come in another order.
    keys = [tuple(row) for row in np.round(wanted, 2).tolist()]
    found = inputs.reshape(320, -1).double().numpy()
    nearest = [int(np.abs(wanted - row).sum(1).argmin()) for row in found]
    np.testing.assert_allclose(found, wanted[nearest], atol=2e-5)
    assert sorted(keys[row] for row in nearest) == sorted(keys)
    assert targets.tolist() == digits.target[nearest].tolist()
    val = torch.cat([targets for _, targets in data.val_dataloader()])
    assert val.tolist() == digits.target[320:370].tolist(), "in the order of the shards"


def test_a_pass_is_the_same_with_workers_and_from_any_batch(folder: Path) -> None:
    data, spawned = made(folder / "parquet", input="pixels"), made(folder / "parquet", input="pixels", num_workers=2)
    whole = passed(data)
    for found in (passed(spawned), tuple(torch.cat([a[:96], b]) for a, b in zip(whole, passed(data, start=3)))):  # noqa: B905
        assert all(torch.equal(a, b) for a, b in zip(whole, found, strict=True))
    assert not torch.equal(whole[1], passed(data, epoch=1)[1])


def test_devices_share_a_pass_of_unequal_shards(tmp_path: Path) -> None:
    """All make as many batches, so that none waits for another; nothing but the padding is twice."""
    for number, (first, last) in enumerate(((0, 5), (5, 90), (90, 101))):
        write_tar(tmp_path / f"{number}.tar", digit_samples(first, last))
    data = made(tmp_path, val_size=0, input="npy", scaling="none")
    shares = [list(ordered(data.train_dataloader(), 1, rank, 2)) for rank in (0, 1)]
    assert [len(share) for share in shares] == [2, 2]
    seen = Counter(tuple(image.flatten().tolist()) for share in shares for batch in share for image in batch[0])
    images = load_digits().images[:101].astype(np.float32)
    assert set(seen) == {tuple(image.flatten().tolist()) for image in images}
    assert sorted(seen.values()) == [1] * 100 + [2], "101 samples on two devices: one is repeated"


def damaged(folder: Path) -> Path:
    """Shards of which each is damaged in another way."""
    digit_shards(folder, 300, 6)
    shard = [folder / f"train-{number:03d}.tar" for number in range(6)]
    shard[1].write_bytes(shard[1].read_bytes()[:122_900])
    content = bytearray(shard[2].read_bytes())
    content[(at := content.index(b"000130.png")) : at + 6] = b"yyyyyy"  # the checksum of this header is wrong now
    shard[2].write_bytes(content)
    samples = [(name, dict(files)) for name, files in digit_samples(150, 200)]
    del samples[3][1]["cls"]
    samples[4][1]["cls"] = b"zebra"
    samples[5][1]["png"] = samples[5][1]["png"][:50]
    write_tar(shard[3], samples)
    shard[4].write_bytes(b"no tar file")
    return folder


def test_damage_is_named_before_the_run_or_left_out_and_counted(tmp_path: Path) -> None:
    folder = damaged(tmp_path / "bad")
    with pytest.raises(ConfigError) as raised:
        made(folder)
    (problem,) = raised.value.problems
    for words in ("train-001.tar: is cut off", "train-002.tar: the header after 000129.json is damaged",
                  "train-003.tar: 000153: has no cls"):  # fmt: skip
        assert words in problem.message
    assert problem.hint == "data.bad_files=skip leaves these out and counts them"
    options = made(folder, bad_files="skip").options
    prepared = prepare(options)
    assert dict(prepared.skipped) == {
        "damaged ends of shards": 3,
        "samples without a file": 1,
        "samples of classes that the training part has once or never": 1,
        "inputs that cannot be read": 1,
    }
    places = prepared.samples.places
    assert Counter(places.shard.tolist()).keys() == {0, 1, 2, 3, 5}


def test_an_array_whose_header_lies_is_a_bad_sample(tmp_path: Path) -> None:
    samples = [(name, dict(files)) for name, files in digit_samples(0, 100)]
    whole = samples[0][1]["npy"]
    at = whole.index(b"'shape'")
    lies = {
        10: whole[:at] + b"'shape': (99999999999,), }" + whole[at + 26 :],
        11: b"PK\x03\x04",
        12: whole[:99],
        13: b"",
    }
    for row, content in lies.items():
        samples[row][1]["npy"] = content
    write_tar(tmp_path / "lies.tar", samples)
    assert prepare(made(tmp_path, input="npy", bad_files="skip").options).skipped == {"inputs that cannot be read": 4}


def test_a_sample_that_cannot_be_read_ends_the_run_or_its_batch_is_smaller(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = [(name, dict(files)) for name, files in digit_samples(0, 96)]
    samples[50][1]["png"] = b"no image"
    path = write_tar(tmp_path / "a.tar", samples)
    with pytest.raises(ExampleError) as raised:
        passed(made(path, check=3, val_size=0, num_workers=1))
    assert str(raised.value).startswith(f"{path}: 000050.png: is no image that Pillow can read\n")
    for workers in (0, 2):
        data = made(path, check=3, val_size=0, num_workers=workers, bad_files="skip")
        sizes = [len(batch[0]) for batch in ordered(data.train_dataloader(), 0)]
        assert sorted(sizes) == [31, 32, 32]
        with caplog.at_level(logging.WARNING, "lrflow"):
            data.teardown("fit")
            data.teardown("fit")
        assert caplog.messages == [f"left out of training: 1 sample: {path}: 000050.png"]
        caplog.clear()


def test_shards_of_parquet_that_differ_are_named(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    folder = digit_tables(tmp_path / "p", 120, 3)
    table = parquet.read_table(folder / "part-1.parquet")
    parquet.write_table(table.drop_columns(["pixels"]), folder / "part-1.parquet")
    other = table.set_column(3, "label", table["label"].cast(pyarrow.float64()))
    parquet.write_table(other, folder / "part-2.parquet")
    (folder / "part-3.parquet").write_bytes((folder / "part-0.parquet").read_bytes()[:-9])
    with pytest.raises(ConfigError) as raised:
        made(folder, input="pixels")
    told = str(raised.value)
    for words in ("part-1.parquet: has no column pixels", "label has the type double, in the first shard int64",
                  "part-3.parquet: cannot be read"):  # fmt: skip
        assert words in told
    assert len(made(folder, input="pixels", bad_files="skip", val_size=0).train_set or ()) == 40


def test_lists_of_other_lengths_and_missing_numbers_are_bad_samples(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows: list[Any] = [[float(row), 1.0, 2.0] for row in range(40)]
    rows[3], rows[7], rows[9] = [1.0], None, [1.0, None, 2.0]
    labels: list[Any] = [row % 2 for row in range(40)]
    labels[20] = None
    parquet.write_table(pyarrow.table({"x": rows, "y": labels}), tmp_path / "a.parquet", row_group_size=15)
    with pytest.raises(ConfigError) as raised:
        made(tmp_path)
    for row in (4, 8, 10):
        assert f"row {row}: holds numbers that are missing or infinite" in str(raised.value)
    assert "row 21 has no y" in str(raised.value)
    data = made(tmp_path, bad_files="skip", val_size=0, scaling="none", batch_size=8)
    assert sorted(passed(data)[0][:, 0].tolist()) == [row for row in range(40) if row not in (3, 7, 9, 20)]


def test_whole_numbers_stay_whole_without_scaling(tmp_path: Path) -> None:
    samples = [(f"{row}", {"npy": npy(np.arange(5) + row), "txt": b"ab"[row % 2 : row % 2 + 1]}) for row in range(40)]
    write_tar(tmp_path / "a.tar", samples)
    data = made(tmp_path, target="txt", scaling="none", batch_size=8)
    inputs, targets = passed(data)
    assert inputs.dtype == torch.int64
    assert torch.equal(inputs[:, 0] % 2, targets)
    assert data.class_names == ("a", "b")
    assert data.normalise(data.read(tmp_path / "a.tar", "task.inputs")).shape == (40, 5)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_may_be_long_and_endings_have_points(form: int, tmp_path: Path) -> None:
    folder = "a/" * (45 if form == tarfile.USTAR_FORMAT else 90)
    samples = [(f"{folder}{row}", {"in.npy": npy(np.ones(2) * row), "y.txt": b"ab"[row % 2 :][:1]}) for row in range(9)]
    write_tar(tmp_path / "a.tar", samples, format=form)
    data = made(tmp_path, input="in.npy", target="y.txt", scaling="none", batch_size=4, val_size=0)
    inputs, targets = passed(data)
    assert sorted(inputs[:, 0].tolist()) == list(range(9))
    assert torch.equal(inputs[:, 0] % 2, targets.float())


def test_folds_divide_the_samples_in_their_order(folder: Path) -> None:
    parts = [prepare(made(folder / "tar", folds=3, fold=fold, test_size=40).options).rows for fold in range(3)]
    assert np.concatenate([part["val"] for part in parts]).tolist() == list(range(360))
    assert all(np.array_equal(np.union1d(part["train"], part["val"]), np.arange(360)) for part in parts)


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "target of a tar": ("tar", {"target": "clas"}, "samples have cls, json, npy, png"),
    "input of a tar": ("tar", {"input": "cls"}, "expected an image, npy or json.KEY"),
    "column of a tar": ("tar", {"input": ["png", "npy"]}, "ending of one file"),
    "key of JSON": ("tar", {"input": "json.x"}, "000000.json: its JSON has no x"),
    "column": ("parquet", {"input": "pixel"}, "did you mean pixels?"),
    "no numbers": ("parquet", {"input": "name"}, "has the type string"),
    "two columns": ("parquet", {"input": ["pixels", "mean"]}, "expected one column, or several of numbers"),
    "the target": ("parquet", {"input": "label"}, "is the target too"),
    "ten classes": ("tar", {"kind": "binary"}, "expected two classes, found 10: 0, 1, 2, 3, 4"),
    "everything held out": ("tar", {"val_size": 400}, "hold out 400 of 400 samples"),
    "shards of two parts": ("tar", {"val_shards": "tar/train-000.tar"}, "which another part has too"),
    "shards of two kinds": ("tar", {"val_shards": "parquet"}, "expected shards of the same kind"),
    "no user": ("~nobody-there/x.tar", {}, "there is no such file or folder"),
    "options": ("tar", {"shuffle": 0, "check": "some", "bad_files": "x"}, "3 problems"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_of_options_are_named(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    place, options, words = WRONG[name]
    with pytest.raises(ConfigError) as raised:
        made(place, **options)
    told = str(raised.value)
    assert words in told or words == f"{len(raised.value.problems)} problems", told
