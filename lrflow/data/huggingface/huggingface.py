"""The data module of data sets of Hugging Face's `datasets`: texts, images or numbers, fetched batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group, RenderableType
from torch import Tensor
from torch.utils.data import Dataset

from lrflow.data.huggingface.parts import PreparedSet, numbers_of, prepare, texts_of, tokenizer_of
from lrflow.data.huggingface.source import BUILDERS, SetOptions, read
from lrflow.data.images import decoding
from lrflow.data.images.decoding import Form, decode
from lrflow.data.listing import class_table
from lrflow.data.module import Examples
from lrflow.data.order import SeededBatch, collate_whole
from lrflow.data.prepared import PreparedModule
from lrflow.data.splits import PARTS, kept_rows
from lrflow.data.text.text import Sequences, TokenSet
from lrflow.data.text.tokenization import FILE, Pretrained, windows_of_texts
from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean, shortened
from lrflow.objectives import LANGUAGE_MODEL
from lrflow.wording import counted, number

_SAMPLES = 16
"""Rows by which a data set that changed is noticed."""


class HuggingFace(PreparedModule[PreparedSet]):
    """A data set of `datasets` (Lhoest et al., 2021): a folder, a file, or a name on the Hugging Face Hub.

    An input is a text as tokens, padded to the longest of its batch; an image as bytes, which are scaled to -1 to 1; or
    numbers. Texts without a target are joined and cut into sequences of `length`, whose next tokens a language model
    learns.

    Args:
        name_or_path: a folder that `save_to_disk` wrote, or of Parquet, JSON, CSV or image files; one such file; or a
            name on the hub, which is downloaded once.
        subset: the configuration of a data set that has several.
        splits: the split for each part: `{train: NAME, val: NAME, test: NAME}`; None: those with such names.
        text: column of the texts, or two of pairs; None: found by the types of the columns.
        image: column of the images.
        inputs: columns of numbers, or one of arrays.
        target: column of the classes, or of the numbers to predict; None: one named `label` or the like.
        kind: `regression`, `binary`, `multiclass` or `language_model`; None: found by the target.
        tokenizer: folder or name of the model whose tokenizer reads the texts.
        length: most tokens of a text; longer ones are cut.
        size: height and width in pixels of every image, or one number for both.
        mode: `RGB` or `L`, grey.
        fit: `crop`: images are scaled until they cover the size, and cut at the centre; `stretch`: scaled to the size.
        val_size: examples held out for validation if there is no split for it, or a share such as `10%`; of a language
            model these are sequences.
        test_size: examples held out for the test if there is no split for it, or a share of them.
        folds: number of parts of a cross-validation, stratified, of the examples that are not for the test; None: none.
        fold: the part that validates, from 0; the others train, and `val_size` does not count.
        split_seed: seed that selects the examples held out.
        batch_size: training examples per batch and device.
        eval_batch_size: examples per batch in validation and test; None: `batch_size`.
        drop_last: whether to leave out an epoch's last batch if it is smaller.
        num_workers: worker processes per loader.
        facts: properties of the data that the config states; see `DataModule`.

    Raises:
        ConfigError: invalid options, all in one error; in `setup`, also a data set or columns that do not fit.
    """

    collate_fn = staticmethod(collate_whole)
    compared = ("examples", "shape", "outputs", "vocabulary", "head", "padding", "separator")

    def __init__(
        self,
        name_or_path: str,
        subset: str | None = None,
        splits: Mapping[str, str] | None = None,
        text: str | Sequence[str] | None = None,
        image: str | None = None,
        inputs: str | Sequence[str] | None = None,
        target: str | None = None,
        kind: str | None = None,
        tokenizer: str | None = None,
        length: int = 128,
        size: int | Sequence[int] = 224,
        mode: str = "RGB",
        fit: str = "crop",
        val_size: int | float | str = "10%",
        test_size: int | float | str = "10%",
        folds: int | None = None,
        fold: int = 0,
        split_seed: int = 0,
        batch_size: int = 32,
        eval_batch_size: int | None = 64,
        drop_last: bool = False,
        num_workers: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in SetOptions.__dataclass_fields__}
        self.options = SetOptions.of(given)
        super().__init__(batch_size, eval_batch_size, 0, 0, drop_last, num_workers, split_seed, facts)

    @property
    def file_types(self) -> tuple[str, ...]:  # type: ignore[override]
        """Endings of the files that `read` reads: of images, or of texts and numbers by their columns."""
        about: dict[str, Any] = self.layout["input"] if self.layout else {"kind": None}
        if about["kind"] == "image":
            return decoding.FILE_TYPES
        return (*BUILDERS, ".txt") if about["kind"] == "text" and len(about["columns"]) == 1 else (*BUILDERS,)

    @property
    def tokens_per_example(self) -> int | None:
        """Tokens of a sequence of a language model; None: texts have any number of tokens, or there are none."""
        return self.layout["shape"][0] if self.layout and self.next_token is not None else None

    @property
    def next_token(self) -> Pretrained | None:
        """The tokenizer, if the next token is learned; None: there is another target."""
        layout = self._layout
        return tokenizer_of(layout["input"]) if layout["target"]["kind"] == LANGUAGE_MODEL else None

    def load(self) -> tuple[Examples, None]:
        """All examples, as `Columns` or `Sequences` that are read batch by batch, and their targets."""
        prepared = self._take(prepare(self.options, self.layout))
        kept, _ = kept_rows(prepared.rows)
        targets = torch.from_numpy(prepared.targets[kept])
        inputs: Any = (
            Columns(prepared, kept)
            if prepared.stream is None
            else Sequences(prepared.stream, prepared.starts, kept, prepared.layout["shape"][0])
        )
        return Examples(inputs, targets.float() if targets.is_floating_point() else targets), None

    @property
    def input_type(self) -> type:
        """`Columns`, or `Sequences` of a language model, which are read batch by batch."""
        return Columns if self._prepared is None or self._prepared.stream is None else Sequences

    def split(self, pool: Examples) -> tuple[Tensor, Tensor, Tensor]:
        """Return the examples of the parts, as splits or sizes define them."""
        assert self._prepared is not None
        _, rows = kept_rows(self._prepared.rows)
        train, val, test = (torch.from_numpy(rows[part]) for part in PARTS)
        return train, val, test

    def normalise(self, inputs: Tensor) -> Tensor:
        """Scale bytes of images to -1 to 1, float32; tokens become int64, and numbers stay as they are."""
        return _normalised(inputs, self._layout["input"]["kind"])

    def _part(self, examples: Examples) -> Any:
        inputs: Any = examples.inputs
        return (TokenSet if isinstance(inputs, Sequences) else ColumnSet)(inputs, examples.targets)

    def read(self, path: Path, key: str) -> Tensor:
        """Return the inputs in a file: an image, lines of texts, or rows with the columns of the training.

        Texts are padded to `length`; for a language model they are those of `tokenization.windows_of_texts`.

        Raises:
            ConfigError: the file cannot be read, or lacks a column.
        """
        about = self._layout["input"]
        if about["kind"] == "image":
            try:
                return torch.from_numpy(decode(path, Form(**about["form"])).copy())[None]
            except ValueError as error:
                raise ConfigError([Problem(key, str(error), str(path))]) from None
        if path.suffix.lower() == ".txt":
            try:
                texts = path.read_text(encoding="utf-8").splitlines()
            except (OSError, ValueError) as error:
                raise ConfigError([Problem(key, f"cannot be read: {error}", str(path))]) from None
            return self._tokens(texts)
        try:
            (found,) = read(SetOptions(str(path))).values()
        except ConfigError as error:
            raise ConfigError([Problem(key, one.message, str(path), one.hint) for one in error.problems]) from None
        if absent := [name for name in about["columns"] if name not in found.column_names]:
            near = did_you_mean(absent[0], found.column_names)
            raise ConfigError([Problem(key, f"has no column {absent[0]}", str(path), near)])
        batch = found.select_columns(about["columns"])[:]
        if about["kind"] == "text":
            return self._tokens(texts_of(batch, about["columns"]))
        return torch.from_numpy(numbers_of(batch, about["columns"]))

    def _tokens(self, texts: Sequence[Any]) -> Tensor:
        about = self._layout["input"]
        if self.next_token is not None:
            return torch.from_numpy(windows_of_texts(texts, self.next_token, about["length"]))
        return torch.from_numpy(_rows(tokenizer_of(about), texts, about["length"], about["length"]))

    def example_inputs(self) -> Tensor | None:
        """Two inputs, of a text or of zeros; None before `layout` is fitted."""
        if self.layout is None:
            return None
        about, shape = self.layout["input"], self.layout["shape"]
        if about["kind"] == "text" and self.next_token is None:
            return self._tokens(["example"] * 2 if len(about["columns"]) == 1 else [("a", "b")] * 2)
        return torch.zeros(2, *shape, dtype={"image": torch.uint8, "text": torch.int64}.get(about["kind"]))

    def describe(self) -> RenderableType | None:
        """What was inferred, the examples of each part and class, and the form of an input."""
        prepared = self._prepared or prepare(self.options, self.layout)
        layout = prepared.layout
        about, target = layout["input"], layout["target"]
        parts = ", ".join(f"{part} {len(prepared.rows[part]):,}" for part in PARTS)
        lines = [f"{self.options.name_or_path}: {counted(prepared.facts['examples'], 'example')} ({parts})"]
        lines += prepared.notes
        columns = " and ".join(about["columns"]) if len(about["columns"]) < 7 else f"{len(about['columns'])} columns"
        if about["kind"] == "text":
            tokenizer = tokenizer_of(about)
            of_model = target["kind"] == LANGUAGE_MODEL
            cut = f"sequences of {about['length']:,}" if of_model else f"at most {about['length']:,} of a text"
            lines.append(f"texts of {columns}: {tokenizer.describe()}, {cut}")
        elif about["kind"] == "image":
            form = Form(**about["form"])
            lines.append(f"images of {columns}: {form.height}x{form.width} {form.mode}")
        else:
            lines.append(f"numbers of {columns}")
        if target["kind"] == LANGUAGE_MODEL:
            return Group(*lines)
        if not target["classes"]:
            return Group(*lines, f"target {target['column']}: {number(target['mean'])} ± {number(target['scale'])}")
        return Group(*lines, class_table(target["classes"], prepared.targets, prepared.rows))

    def describe_inputs(self) -> list[dict[str, Any]]:
        """The form of an input, without the content of the tokenizer."""
        return [{name: value for name, value in self._layout["input"].items() if name != "tokenizer"}]

    def export_files(self) -> dict[str, str]:
        """The `tokenizer.json` of texts."""
        about = self._layout["input"]
        return {FILE: about["tokenizer"]["content"]} if about["kind"] == "text" else {}

    @property
    def pixel_moments(self) -> tuple[Sequence[float], Sequence[float]] | None:  # type: ignore[override]
        """By which pixels from 0 to 1 are scaled to -1 to 1; None: the inputs are no images."""
        return ([0.5], [0.5]) if self._layout["input"]["kind"] == "image" else None


def _normalised(inputs: Tensor, kind: str) -> Tensor:
    return inputs.long() if kind == "text" else inputs.float() / 127.5 - 1 if kind == "image" else inputs.float()


def _rows(tokenizer: Pretrained, texts: Sequence[Any], length: int, width: int = 0) -> np.ndarray:
    """Return texts as rows of tokens, int64, cut to `length` and padded to the longest, at least to `width`."""
    encoded = tokenizer.encode(texts, length)
    found = np.full((len(encoded), max([width, *map(len, encoded)])), tokenizer.padding, np.int64)
    for row, tokens in zip(found, encoded, strict=True):
        row[: len(tokens)] = tokens
    return found


class Columns(Dataset[Any]):
    """Some of the inputs of a data set, which are read when they are fetched.

    Args:
        prepared: all of them.
        rows: indices of these; int64.
    """

    def __init__(self, prepared: PreparedSet, rows: np.ndarray) -> None:
        self.rows = rows
        self._about, self._shape = prepared.layout["input"], tuple(prepared.layout["shape"])
        self._source = prepared.source.select_columns(self._about["columns"])
        self._tokenizer = tokenizer_of(self._about) if self._about["kind"] == "text" else None
        spread = np.unique(np.linspace(0, len(self._source) - 1, _SAMPLES).astype(int))
        self.samples = [shortened(str(row), 1000) for row in self._source.select(spread)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of inputs, and the largest shape of one."""
        return len(self.rows), *self._shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Columns:
        found = Columns.__new__(Columns)
        vars(found).update(vars(self), rows=self.rows[rows.numpy()])
        return found

    def fetch(self, rows: np.ndarray) -> Tensor:
        """Return these of the inputs for the network: tokens int64, or pixels or numbers float32, [rows, ...].

        Raises:
            LrflowError: an image cannot be decoded, or numbers have another shape than the first ones.
        """
        chosen = self.rows[rows]
        batch = self._source[chosen]
        if self._tokenizer is not None:
            texts = texts_of(batch, self._about["columns"])
            return torch.from_numpy(_rows(self._tokenizer, texts, self._about["length"]))
        if self._about["kind"] == "image":
            return _normalised(torch.from_numpy(self._images(batch[self._about["columns"][0]], chosen)), "image")
        found = numbers_of(batch, self._about["columns"])
        if found.shape[1:] != self._shape:
            message = f"data.inputs: rows from {chosen[0]:,} on have the shape {found.shape[1:]}"
            raise LrflowError(f"{message}, and the first row has {self._shape}")
        return torch.from_numpy(found)

    def _images(self, images: Sequence[Any], rows: np.ndarray) -> np.ndarray:
        form = Form(**self._about["form"])
        found = np.empty((len(images), *form.shape), np.uint8)
        for place, image in enumerate(images):
            try:
                content = image["bytes"] if image else None
                found[place] = decode(content or image["path"], form)
            except (TypeError, ValueError) as error:
                reason = str(error) if image else "is missing"
                raise LrflowError(f"data.image: the image in row {rows[place]:,} {reason}") from error
        return found


class ColumnSet(Dataset[Any]):
    """Inputs and their targets, fetched batch by batch.

    Args:
        inputs: the inputs.
        targets: of each.
    """

    def __init__(self, inputs: Columns, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """An input and its target."""
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """A batch: inputs [batch, ...], and their targets [batch]."""
        rows = indices.rows if isinstance(indices, SeededBatch) else np.asarray(indices, np.int64)
        return [self.inputs.fetch(rows), self.targets[torch.from_numpy(rows)]]
