"""The data module of images: which files it finds, its parts and inputs, and what does not fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lrflow.data import Images, ordered
from lrflow.data.images.files import ImageOptions, list_images
from lrflow.errors import ConfigError
from lrflow.training.checkpoint_file import encode


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRFLOW_DATA", str(tmp_path / "data"))


def save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(value).randint(0, 200, (6, 6, 3)).astype(np.uint8)
    Image.fromarray(pixels + np.array([0, 20, 40], np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of 20 images; a class has a folder in its folder."""
    for number in range(60):
        name = ("cat", "dog", "eel/small")[number % 3]
        save(tmp_path / "pets" / name / f"{number}.png", number)
    return tmp_path / "pets"


def images(root: Path | None, **options: Any) -> Images:
    data = Images(str(root) if root else None, **{"size": 6, "decoders": 1, "batch_size": 4, **options})
    data.setup()
    return data


def whole(part: Any) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = part.__getitems__(range(len(part)))
    return inputs, targets


def test_inputs_are_scaled_by_the_training_part_of_stratified_parts(root: Path) -> None:
    data = images(root, val_size=0.2, test_size=12)
    inputs, targets = whole(data.train_set)
    assert inputs.shape == (36, 3, 6, 6)
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-6)
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-6)
    for part in (data.val_set, data.test_set):
        assert torch.bincount(whole(part)[1]).tolist() == [4, 4, 4]
    assert data.class_names == ("cat", "dog", "eel")
    # Each image has the class of its folder: found by the pixels, which the layout scales.
    mean, std = (torch.tensor((data.layout or {})[name]).view(3, 1, 1) for name in ("mean", "std"))
    for image, target in zip(inputs, targets, strict=True):
        bytes_of = ((image * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        (path,) = (one for one in root.rglob("*.png") if np.array_equal(np.asarray(Image.open(one)), bytes_of))
        assert path.relative_to(root).parts[0] == data.class_names[target]
    assert data.train_set[3][0].equal(inputs[3])  # type: ignore[index]


def test_batches_decoded_when_they_are_needed_are_those_of_the_cache(root: Path, same: Any) -> None:
    def batches(**options: Any) -> list[Any]:
        loader = ordered(images(root, batch_size=16, **options).train_dataloader(), seed=3, epoch=1)
        return [list(batch) for batch in loader]

    cached = batches()
    assert len(cached) == 3
    assert same(cached, batches(cache="none"))
    assert same(cached, batches(cache="none", num_workers=1))


def test_the_order_does_not_depend_on_the_file_system_and_hidden_files_do_not_count(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ImageOptions(str(root))
    before = list_images(options)
    assert before.names == sorted(before.names)
    for hidden in (".DS_Store", ".cat/1.png", "dog/Thumbs.db", "dog/.png", "README.md"):
        (root / hidden).parent.mkdir(exist_ok=True)
        (root / hidden).touch()
    scan = os.scandir

    class Reversed:
        def __init__(self, path: Any) -> None:
            with scan(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    after = list_images(options)
    assert (after.names, after.mistakes) == (before.names, [])


def test_links_are_followed_but_not_in_circles(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    save(tmp_path / "elsewhere/a.png", 1)
    (root / "fox").symlink_to(tmp_path / "elsewhere")
    (root / "dog/link.png").symlink_to(tmp_path / "elsewhere/a.png")
    (root / "dog/up").symlink_to(root / "dog")
    names = list_images(ImageOptions(str(root))).names
    assert [name for name in names if "fox" in name or "link" in name] == ["dog/link.png", "fox/a.png"]
    assert len(names) == 62


def test_parts_come_from_folders_or_from_a_column(root: Path, tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        for kind in ("cat", "dog"):
            (tmp_path / "parts" / part / kind).symlink_to(root / kind)
    data = images(tmp_path / "parts")
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [40, 40, 40]  # type: ignore[arg-type]
    (tmp_path / "parts/valid").rename(tmp_path / "parts/.valid")
    data = images(tmp_path / "parts", val_size="10%")
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [36, 4, 40]  # type: ignore[arg-type]

    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    rows = [f"{name},{name[:3]},{row / 7},{('train', 'val', 'test')[row // 3 % 3]}" for row, name in enumerate(paths)]
    (tmp_path / "list.csv").write_text("\n".join(["path,target,weight,part", *rows]))
    data = images(root, file=str(tmp_path / "list.csv"), split="part")
    assert data.class_names == ("cat", "dog", "eel")
    assert len(whole(data.val_set)[1]) == 21
    data = images(root, file=str(tmp_path / "list.csv"), target="weight", test_size=0)
    assert data.class_names == ()
    assert whole(data.train_set)[1].dtype == torch.float32
    assert data._prepared is not None
    facts = data._prepared.facts
    assert (facts["outputs"], facts["loss"], facts["examples"]) == (1, "mse", 60)
    assert facts["units"][0] == pytest.approx(float(whole(data.train_set)[1].mean()))


def test_folds_divide_the_images(root: Path) -> None:
    sizes = [len(images(root, folds=4, fold=fold, test_size=0).val_set) for fold in range(4)]  # type: ignore[arg-type]
    assert sizes == [15] * 4


def spoil_classes(root: Path) -> None:
    (root / "fox").mkdir()
    (root / "gnu").mkdir()
    (root / "gnu/readme.txt").touch()
    (root / "lost.png").touch()


def spoil_files(root: Path) -> None:
    (root / "dog/1.png").write_text("no image")
    (root / "cat/none.png").symlink_to(root / "nothing")


def spoil_parts(root: Path) -> None:
    for kind in ("cat", "dog", "eel"):
        os.rename(root / kind, root.parent / kind)
    for part, kinds in {"train": ["cat", "dog"], "val": ["cat", "dog", "cats"]}.items():
        (root / part).mkdir()
        for kind in kinds:
            (root / part / kind).symlink_to(root.parent / kind.removesuffix("s"))


SPOILT: dict[Callable[[Path], None], tuple[list[str], dict[str, int], int]] = {
    spoil_classes: (
        ["lost.png: lies in no folder of a class", "fox: has no images", "gnu/readme.txt: is no image"],
        {"images without a class": 1, "empty folders of classes": 2, "files that are no images": 1},
        60,
    ),
    spoil_files: (
        ["dog/1.png: is no image that Pillow can read", "cat/none.png: cannot be decoded: No such file"],
        {"files that cannot be decoded": 2},
        59,
    ),
    spoil_parts: (
        ["val/cats/0.png: the class cats is not in the training part, did you mean cat?"],
        {"images of classes that the training part lacks": 20},
        80,
    ),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_files_that_do_not_fit_are_told_or_left_out_and_counted(spoil: Callable[[Path], None], root: Path) -> None:
    messages, skipped, left = SPOILT[spoil]
    spoil(root)
    with pytest.raises(ConfigError) as raised:
        images(root)
    (problem,) = raised.value.problems
    assert problem.key == "data.root"
    assert [one for one in messages if one not in problem.message] == []
    assert "data.bad_files=skip" in str(problem.hint)
    data = images(root, bad_files="skip", val_size=0 if "val" in os.listdir(root) else 9)
    assert data._prepared is not None
    assert (data._prepared.skipped, data._prepared.facts["examples"]) == (skipped, left)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(data.describe())
    assert all(f"left out: {reason} ({count})" in captured.get() for reason, count in skipped.items())


def test_lines_that_do_not_fit_are_told_with_their_numbers(root: Path, tmp_path: Path) -> None:
    lines = [
        "path,target",
        "cat/0.png,a",
        "cat/33.pn,a",
        ",b",
        "dog/1.png,",
        "dog/4.png,b,c",
        "bad.png,b",
        "dog/7.png,b",
    ]
    (root / "bad.png").write_text("bad")
    (tmp_path / "list.csv").write_text("\n".join([*lines, *(f"dog/{n}.png,b" for n in (10, 13)), "cat/3.png,a"]))
    options: dict[str, Any] = {"file": str(tmp_path / "list.csv"), "val_size": 0, "test_size": 0}
    with pytest.raises(ConfigError) as raised:
        images(root, **options)
    (problem,) = raised.value.problems
    for told in ("line 3: there is no file", "line 4: no path", "line 5: no value in the column target",
                 "line 6: has 3 cells", "line 7: bad.png: is no image"):  # fmt: skip
        assert told in problem.message
    data = images(root, **options, bad_files="skip")
    assert len(data.train_set) == 5  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean target"):
        images(root, **{**options, "target": "targets"})


def test_wrong_options_are_told_with_what_is_near(root: Path, tmp_path: Path) -> None:
    (tmp_path / "one/cat").mkdir(parents=True)
    save(tmp_path / "one/cat/a.png", 1)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/pets").symlink_to(root)
    for options, key, told in [
        ({"root": tmp_path / "pet"}, "data.root", "did you mean"),
        ({"root": tmp_path / "one"}, "data.root", "found one, cat"),
        ({"root": tmp_path / "deep"}, "data.root", f"did you mean {tmp_path / 'deep/pets'}?"),
        ({"root": None}, "data.root", "data.file=FILE.csv"),
        ({"root": root, "size": 0}, "data.size", "pixels"),
        ({"root": root, "size": [3]}, "data.size", "[height, width]"),
        ({"root": root, "mode": "CMYK"}, "data.mode", "RGB, L"),
        ({"root": root, "split": "part"}, "data.split", "column of data.file"),
        ({"root": root, "val_size": 57}, "data.val_size", "hold out"),
        ({"root": root, "val_size": 50, "test_size": 0, "folds": 70}, "data.folds", "only 60 images"),
        ({"root": root, "kind": "binary"}, "data.root", "expected two classes, found 3"),
        ({"root": root, "facts": {"shape": [1, 6, 6], "examples": 30}}, "data.facts.shape", "the data has [3, 6, 6]"),
    ]:
        with pytest.raises(ConfigError) as raised:
            images(**options)  # type: ignore[arg-type]
        assert {key: told in str(raised.value)} == {one.key: True for one in raised.value.problems if one.key == key}


def test_a_file_to_predict_is_read_as_those_of_the_training(root: Path, tmp_path: Path) -> None:
    data = images(root, mode="L", size=[4, 6])
    restored = Images(str(tmp_path / "gone"), decoders=1)
    restored.use_fitted(encode({"fitted": data.fitted})["fitted"])
    path = root / "cat/0.png"
    (found,) = restored.read_all([path], "task.inputs")
    expected = list_images(ImageOptions(str(root))).paths.index(str(path))
    assert data._prepared is not None
    assert data._prepared.images.pixels is not None
    np.testing.assert_array_equal(found[0], data._prepared.images.pixels[expected])
    example = restored.example_inputs()
    assert example is not None
    assert restored.normalise(example).shape == (2, 1, 4, 6)
    assert restored.class_names == data.class_names
    with pytest.raises(ConfigError, match=r"task\.inputs"):
        restored.read_all([path, tmp_path / "none.png"], "task.inputs")
