"""Decoded images against NumPy and torch: colour modes, orientations, sizes, broken files, several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lrflow.data.images.decoding import Form, decode, decode_all

RANDOM = np.random.RandomState(0)
COLOURS = RANDOM.randint(0, 256, (6, 8, 3)).astype(np.uint8)
GREY = RANDOM.randint(0, 256, (6, 8)).astype(np.uint8)
ALPHA = RANDOM.randint(0, 256, (6, 8, 1)).astype(np.uint8)
DEEP = RANDOM.randint(0, 65536, (6, 8)).astype(np.uint16)


def luma(colours: np.ndarray) -> np.ndarray:
    return colours @ np.array([0.299, 0.587, 0.114])


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha / 255
    return colours * share + 255 * (1 - share)


def palette(alpha: bytes | None) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        image = Image.fromarray(GREY % 3).convert("P")
        image.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250])
        image.save(path, **({} if alpha is None else {"transparency": alpha}))

    return save


SHADES = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]])[GREY % 3]
MADE = {
    "rgb.png": (lambda path: Image.fromarray(COLOURS).save(path), COLOURS),
    "rgb.bmp": (lambda path: Image.fromarray(COLOURS).save(path), COLOURS),
    "rgb.webp": (lambda path: Image.fromarray(COLOURS).save(path, lossless=True), COLOURS),
    "grey.png": (lambda path: Image.fromarray(GREY).save(path), np.repeat(GREY[..., None], 3, 2)),
    "two.png": (lambda path: Image.fromarray(GREY > 99).save(path), np.repeat((GREY > 99)[..., None] * 255, 3, 2)),
    "rgba.png": (
        lambda path: Image.fromarray(np.concatenate([COLOURS, ALPHA], 2)).save(path), over_white(COLOURS, ALPHA)
    ),
    "palette.png": (palette(None), SHADES),
    "clear.png": (palette(b"\x00\xff\x80"), over_white(SHADES, np.array([0, 255, 128])[GREY % 3][..., None])),
    "deep.png": (lambda path: Image.fromarray(DEEP).save(path), np.repeat(DEEP[..., None] / 257, 3, 2)),
    "deep.tif": (lambda path: Image.fromarray(DEEP).save(path), np.repeat(DEEP[..., None] / 257, 3, 2)),
    "frames.gif": (
        lambda path: Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        np.repeat(GREY[..., None], 3, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_every_kind_of_image_becomes_the_same_bytes(name: str, tmp_path: Path) -> None:
    save, expected = MADE[name]
    save(tmp_path / name)
    found = decode(tmp_path / name, Form(6, 8, "RGB", "crop"))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, atol=1.01)
    grey = decode(tmp_path / name, Form(6, 8, "L", "crop"))
    np.testing.assert_allclose(grey[0], luma(np.asarray(expected, float)), atol=2.01)


def test_images_are_turned_as_the_camera_was_held(tmp_path: Path) -> None:
    upright = {
        1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1], 5: COLOURS.transpose(1, 0, 2),
        6: np.rot90(COLOURS, -1), 7: COLOURS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(COLOURS),
    }  # fmt: skip
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(COLOURS).save(tmp_path / "x.png", exif=exif)
        found = decode(tmp_path / "x.png", Form(*expected.shape[:2], "RGB", "crop"))
        np.testing.assert_array_equal(found.transpose(1, 2, 0), expected)


def test_sizes_are_those_of_torch_after_a_cut_at_the_centre(tmp_path: Path) -> None:
    wide = np.kron(RANDOM.randint(0, 256, (10, 16, 3)), np.ones((5, 5, 1))).astype(np.uint8)  # 50 x 80
    Image.fromarray(wide).save(tmp_path / "x.png")
    pixels = torch.from_numpy(wide).permute(2, 0, 1)[None].float()
    for form, part in {
        Form(20, 20, "RGB", "crop"): pixels[..., 15:65],
        Form(10, 20, "RGB", "crop"): pixels[..., 5:45, :],
        Form(20, 20, "RGB", "stretch"): pixels,
        Form(100, 100, "RGB", "crop"): pixels[..., 15:65],
    }.items():
        size = (form.height, form.width)
        expected = torch.nn.functional.interpolate(part, size, mode="bilinear", antialias=True)[0]
        found = torch.from_numpy(decode(tmp_path / "x.png", form).copy()).float()
        # At a cut, Pillow also sees the pixels beyond it.
        assert (found - expected)[:, 2:-2, 2:-2].abs().max() < 2


def test_a_large_jpeg_is_read_at_a_smaller_scale_that_looks_the_same(tmp_path: Path) -> None:
    smooth = np.kron(RANDOM.randint(0, 256, (12, 16, 3)), np.ones((64, 64, 1))).astype(np.uint8)  # 768 x 1024
    Image.fromarray(smooth).save(tmp_path / "x.jpg", quality=95)
    form = Form(48, 64, "RGB", "crop")
    whole = Image.open(tmp_path / "x.jpg").resize((64, 48), Image.Resampling.BILINEAR)
    difference = np.abs(decode(tmp_path / "x.jpg", form).transpose(1, 2, 0).astype(int) - np.asarray(whole))
    assert difference.mean() < 2


def test_what_cannot_be_decoded_is_told(tmp_path: Path) -> None:
    form = Form(8, 8, "RGB", "crop")
    noise = Image.fromarray(RANDOM.randint(0, 256, (64, 64, 3)).astype(np.uint8))
    for suffix in (".png", ".jpg"):
        noise.save(tmp_path / f"whole{suffix}")
        content = (tmp_path / f"whole{suffix}").read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
    (tmp_path / "damaged.png").write_bytes(content[:100] + bytes(50))
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for name, message in {
        "cut.png": "cannot be decoded", "cut.jpg": "cannot be decoded", "damaged.png": "cannot be decoded",
        "empty.png": "is empty", "text.png": "is no image", "float.tif": "32-bit floats", "link.png": "No such file",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message) as raised:
            decode(tmp_path / name, form)
        assert str(tmp_path) not in str(raised.value)


def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    form = Form(3, 4, "RGB", "crop")
    paths = [str(tmp_path / f"{number}.png") for number in range(150)]
    for number, path in enumerate(paths):
        Image.fromarray(np.roll(COLOURS, number)).save(path)
    Path(paths[140]).write_text("no image")
    found = []
    for processes in (1, 2):
        file = tmp_path / f"by-{processes}.npy"
        found.append((decode_all(paths, form, file, processes), np.load(file)))
    (one, pixels), (two, others) = found
    np.testing.assert_array_equal(pixels, others)
    np.testing.assert_array_equal(one.sums, pixels.astype(int).sum((2, 3)))
    np.testing.assert_array_equal(one.squares, (pixels.astype(int) ** 2).sum((2, 3)))
    assert np.array_equal(one.sums, two.sums)
    assert np.array_equal(one.squares, two.squares)
    assert one.wrong == two.wrong == {140: "is no image that Pillow can read"}
    assert decode_all(paths, form, None, 2).wrong == one.wrong
