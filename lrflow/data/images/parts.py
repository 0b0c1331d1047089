"""Images prepared for training: found, decoded and checked one by one, split, and fitted to their training part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.data.images.cache import DecodedImages, decoded_images
from lrflow.data.images.decoding import Decoded, Form
from lrflow.data.images.files import ImageOptions, list_images
from lrflow.data.listing import Misfit, check_trained, classes_of, counted_reasons, rows_of
from lrflow.data.splits import PARTS
from lrflow.data.table.columns import values_of
from lrflow.data.table.parts import target_kind
from lrflow.errors import ConfigError, Problem, shortened

Layout = dict[str, Any]
"""What is fitted to the training part, as plain data: `form`, `mean` and `std` of each channel, and `target`."""


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Images as a data module needs them.

    Args:
        images: all of them, also those that are left out.
        targets: class numbers int64 [images], or numbers float64 [images].
        rows: of each part, the indices of its images.
        layout: what is fitted to the training part.
        skipped: the number of files that were left out, by the reason.
        weights: by which images to train on are drawn, float64 [images]; None: none.
    """

    images: DecodedImages
    targets: np.ndarray
    rows: Mapping[str, np.ndarray]
    layout: Layout
    skipped: Mapping[str, int] = field(default_factory=dict)
    weights: np.ndarray | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """What is held out, as `data.val_size` and `data.test_size` count it."""
        return {part: len(self.rows[part]) for part in PARTS[1:]}

    @property
    def facts(self) -> dict[str, Any]:
        """What a config has to know before the data is read: see `lrflow.config.schemas.objects.Facts`."""
        target = self.layout["target"]
        classes = len(target["classes"])
        return {
            "examples": sum(map(len, self.rows.values())),
            "shape": list(self.images.form.shape),
            "outputs": classes or 1,
            "loss": "cross_entropy" if classes else "mse",
            "units": None if classes else [target["mean"], target["scale"]],
        }


def form_of(layout: Layout) -> Form:
    """Return the form in which the images of a training were read."""
    return Form(**layout["form"])


def prepare(options: ImageOptions, layout: Layout | None = None) -> PreparedImages:
    """Find, check, split and fit images; the last result is kept as long as the files do not change.

    Args:
        options: of the images.
        layout: what an earlier training was fitted to; None: it is fitted to the training part.

    Raises:
        ConfigError: there are no such files, some do not fit, or a part has no images.
    """
    listing = list_images(options)
    if not listing.paths:
        raise ConfigError([options.mistaken(listing.mistakes) if listing.mistakes else _nothing_left(options)])
    form = form_of(layout) if layout else options.form
    home = Path(options.root if options.file is None else options.file)  # type: ignore[arg-type]
    images = _decoded(tuple(listing.paths), form, home, options.cache, options.decoders, _times(listing.paths))
    mistakes = list(listing.mistakes)
    for row, message in sorted(images.decoded.wrong.items()):
        mistakes.append(Misfit(listing.names[row], message, "files that cannot be decoded"))
    kept = np.setdiff1d(np.arange(len(listing.paths)), np.fromiter(images.decoded.wrong, np.int64))
    target = listing.target
    kind = layout["target"]["kind"] if layout else options.kind or target_kind(target)
    classes: list[str]
    if kind == "regression":
        targets, classes = values_of(target, "number")[0], []
    else:
        targets, classes, kept = classes_of(listing, kept, layout, mistakes, "image")
    if mistakes and not options.skips:
        raise ConfigError([options.mistaken(mistakes)])
    if layout is None and kind != "regression":
        _check_classes(options, classes)
    rows = rows_of(options.held_out, listing.parts, kept, targets, "image", _nothing_left(options))
    if layout is None:
        check_trained(targets, rows["train"], classes, "image", options.val_size)
        mean, std = _moments(images.decoded, rows["train"], form)
        own = targets[rows["train"]] if kind == "regression" else np.zeros(1)
        about = {"kind": kind, "classes": classes, "mean": float(own.mean()), "scale": float(own.std()) or 1.0}
        layout = {"form": vars(form).copy(), "mean": mean, "std": std, "target": about}
    return PreparedImages(images, targets, rows, layout, counted_reasons(mistakes), listing.weights)


@lru_cache(maxsize=2)
def _decoded(
    paths: tuple[str, ...], form: Form, home: Path, cache: str, processes: int | None, times: int
) -> DecodedImages:
    return decoded_images(paths, form, home, cache, processes)


def _times(paths: Sequence[str]) -> int:
    """Return a number that changes when one of the files does."""
    found = []
    for path in paths:
        try:
            status = Path(path).stat()
            found.append((status.st_size, status.st_mtime_ns))
        except OSError:
            found.append((-1, -1))
    return hash(tuple(found))


def _check_classes(options: ImageOptions, classes: Sequence[str]) -> None:
    key, value = ("data.target", options.target) if options.file is not None else options.named
    if len(classes) < 2 or (options.kind == "binary" and len(classes) != 2):
        expected = "two classes" if options.kind == "binary" else "at least two classes"
        names = ", ".join(map(shortened, classes[:5])) or "none"
        raise ConfigError([Problem(key, f"expected {expected}, found {len(classes)}: {names}", value)])


def _nothing_left(options: ImageOptions) -> Problem:
    key, value = options.named
    return Problem(key, "no image is left to train on", value)


def _moments(decoded: Decoded, rows: np.ndarray, form: Form) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels of some images, scaled to [0, 1]."""
    count = len(rows) * form.height * form.width
    sums, squares = decoded.sums[rows].sum(0), decoded.squares[rows].sum(0)
    means = [int(one) / count for one in sums]
    variances = [int(square) / count - mean**2 for square, mean in zip(squares, means, strict=True)]
    return [mean / 255 for mean in means], [max(variance, 0.0) ** 0.5 / 255 or 1.0 for variance in variances]
