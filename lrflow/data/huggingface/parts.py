"""Data sets of Hugging Face's `datasets` prepared for training: targets, parts and what is fitted; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from lrflow.data.huggingface.source import Layout, SetOptions, columns_of, files_of, is_unlabelled, read, splits_of
from lrflow.data.images.decoding import Form
from lrflow.data.listing import check_trained
from lrflow.data.splits import PARTS
from lrflow.data.table.columns import in_order
from lrflow.data.table.parts import MOST_CLASSES
from lrflow.data.text.tokenization import FILE, Pretrained, cut_streams, read_pretrained, smallest_type
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened
from lrflow.hub import find_file
from lrflow.objectives import CLASSES, LANGUAGE_MODEL


@dataclass(frozen=True, eq=False)
class PreparedSet:
    """A data set as a data module needs it.

    Args:
        source: a `datasets.Dataset` of all splits one after the other.
        targets: class numbers int64 [examples], or numbers float64 [examples]; of a language model zeros.
        rows: of each part, the indices of its examples.
        layout: what is fitted to the training part.
        stream: the tokens of a language model, split after split; None: the data are others.
        starts: of a language model, the place of each example in them.
        notes: lines for people: what was inferred, and what is not used.
    """

    source: Any
    targets: np.ndarray
    rows: Mapping[str, np.ndarray]
    layout: Layout
    stream: np.ndarray | None = None
    starts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    notes: Sequence[str] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """What is held out for `val` and `test`."""
        return {part: len(self.rows[part]) for part in PARTS[1:]}

    @property
    def facts(self) -> dict[str, Any]:
        """What a config has to know before the data is read: see `lrflow.config.schemas.objects.Facts`."""
        target, kept = self.layout["target"], self.layout["input"]
        found: dict[str, Any] = {"examples": sum(map(len, self.rows.values())), "shape": list(self.layout["shape"])}
        classes = len(target["classes"])
        words = kept["kind"] == "text"
        tokens = tokenizer_of(kept) if words else None
        if target["kind"] == LANGUAGE_MODEL:
            assert tokens is not None
            return {**found, "outputs": tokens.size, "loss": "cross_entropy", "vocabulary": tokens.size,
                    "head": LANGUAGE_MODEL}  # fmt: skip
        found |= {"outputs": classes or 1, "loss": "cross_entropy" if classes else "mse"}
        found["units"] = None if classes else [target["mean"], target["scale"]]
        if tokens is not None:
            found |= {"vocabulary": tokens.size, "head": CLASSES, "padding": tokens.padding}
            found["separator"] = tokens.separator() if len(kept["columns"]) == 2 else None
        return found


def tokenizer_of(about: Mapping[str, Any]) -> Pretrained:
    """Return the tokenizer of the texts of a training."""
    kept = about["tokenizer"]
    return _tokenizer(kept["content"], kept["end"], kept["padding"])


_tokenizer = lru_cache(maxsize=2)(Pretrained)  # reading a large vocabulary takes a second


def prepare(options: SetOptions, layout: Layout | None = None) -> PreparedSet:
    """Read, check and split a data set; the last results are kept as long as its files do not change.

    Args:
        options: of the data set.
        layout: what an earlier training was fitted to; None: it is fitted to the training part.

    Raises:
        ConfigError: there is no such data set or column, or the columns do not fit.
    """
    return _prepared(options, json.dumps(layout) if layout else None, files_of(options.name_or_path))


@lru_cache(maxsize=2)
def _prepared(options: SetOptions, given: str | None, files: tuple[tuple[str, int, int], ...]) -> PreparedSet:
    layout: Layout | None = json.loads(given) if given else None
    splits, notes = splits_of(options, read(options))
    columns = splits["train"].column_names
    chosen, inferred = columns_of(options, splits["train"].features, layout)
    notes += inferred
    target = chosen["target"]
    kind = layout["target"]["kind"] if layout else chosen["kind"]
    lacking = [part for part, one in splits.items() if target and is_unlabelled(one, target)]
    if "train" in lacking:
        raise ConfigError([Problem("data.target", "its values are missing in the training part", target)])
    notes += [f"not used: the split for {part}, in which {target} is missing" for part in lacking]
    splits = {part: one for part, one in splits.items() if part not in lacking}
    kept = [*chosen["columns"], *([target] if target else [])]
    for part, one in splits.items():
        if absent := [name for name in kept if name not in one.column_names]:
            message = f"the split for {part} has no such column"
            raise ConfigError([Problem("data.splits", message, absent[0], did_you_mean(absent[0], columns))])
    from datasets import Image, concatenate_datasets

    source = concatenate_datasets([one.select_columns(kept) for one in splits.values()])
    labels = np.repeat([*splits], [len(one) for one in splits.values()])
    if chosen["input"] == "image":
        source = source.cast_column(chosen["columns"][0], Image(decode=False))
    values, about = _targets(options, source, target, kind, labels, layout)
    if kind == LANGUAGE_MODEL:
        return _blocks(options, source, labels, chosen, about, layout, notes)
    rows = _rows(options, labels, values)
    if layout is None and not about["classes"]:
        own = values[rows["train"]]
        about |= {"mean": float(own.mean()), "scale": float(own.std()) or 1.0}
    elif layout is None:
        check_trained(values, rows["train"], about["classes"], "example", options.val_size)
    made = layout or {"input": _input(options, chosen), "target": about, "shape": []}
    if layout is None:
        made["shape"] = _shape(options, source, made["input"])
    return PreparedSet(source, values, rows, made, notes=notes)


def _targets(
    options: SetOptions, source: Any, target: str | None, kind: str | None, labels: np.ndarray, layout: Layout | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the targets as class numbers or numbers, and what is known of them."""
    from datasets import ClassLabel

    if kind == LANGUAGE_MODEL or target is None:
        return np.zeros(len(labels), np.int64), {"kind": LANGUAGE_MODEL, "column": None, "classes": []}
    values = source[target][:]
    unknown = {-1} if isinstance(source.features[target], ClassLabel) else set()
    if missing := [row for row, value in enumerate(values) if value is None or value != value or value in unknown]:
        rows = f"row {missing[0]:,}" + (f" and {len(missing) - 1:,} more" if len(missing) > 1 else "")
        message = f"{len(missing):,} of the examples {'has' if len(missing) == 1 else 'have'} none: {rows}"
        raise ConfigError([Problem("data.target", message, target)])
    feature = source.features[target]
    if isinstance(feature, ClassLabel):
        found, names = np.array(values, np.int64), [str(name) for name in feature.names]
        if layout is None and kind != "regression":
            return found, _about(options, target, names)
        values = [names[value] for value in values] if layout and layout["target"]["classes"] else values
    if isinstance(values[0], list | dict):
        message = "holds several values in a row; expected a class or a number"
        raise ConfigError([Problem("data.target", message, target)])
    as_numbers = not isinstance(values[0], str | bool)
    if kind is None:
        plain = np.unique(values) if as_numbers else np.empty(0)
        few = as_numbers and len(plain) <= MOST_CLASSES and not (plain % 1 != 0).any()
        kind = "multiclass" if few or not as_numbers else "regression"
    if kind == "regression":
        if not as_numbers:
            raise ConfigError([Problem("data.target", "holds texts, and a regression needs numbers", target)])
        about = {"kind": kind, "column": target, "classes": []}
        return np.array(values, np.float64), layout["target"] if layout else about
    texts = [_text(value) for value in values]
    if layout:
        names = layout["target"]["classes"]
    else:
        trained = {text for text, part in zip(texts, labels, strict=True) if part == "train"}
        names = in_order(sorted(trained))
    number = {name: place for place, name in enumerate(names)}
    if strange := sorted({*texts} - {*number}):
        message = f"the class {shortened(strange[0])} is not in the training part"
        raise ConfigError([Problem("data.target", message, target, did_you_mean(strange[0], names))])
    about = layout["target"] if layout else _about(options, target, names)
    return np.array([number[text] for text in texts], np.int64), about


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value % 1 == 0 else str(value)


def _about(options: SetOptions, target: str, names: list[str]) -> dict[str, Any]:
    if len(names) < 2 or (options.kind == "binary" and len(names) != 2):
        expected = "two classes" if options.kind == "binary" else "at least two classes"
        found = ", ".join(map(shortened, names[:5])) or "none"
        raise ConfigError([Problem("data.target", f"expected {expected}, found {len(names)}: {found}", target)])
    return {"kind": "binary" if len(names) == 2 else "multiclass", "column": target, "classes": names}


def _rows(options: SetOptions, labels: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Return the examples of each part: those of the splits, or held out of the training part."""
    rows = {part: np.flatnonzero(labels == part) for part in PARTS}
    if not len(rows["val"]):  # what the data set splits itself is not split again
        held = replace(options.held_out, test_size=0) if len(rows["test"]) else options.held_out
        return held.rows(rows["train"], targets, "examples") | ({"test": rows["test"]} if len(rows["test"]) else {})
    if options.folds is not None:
        raise ConfigError([Problem("data.folds", "there is a part for validation already", options.folds)])
    if not len(rows["test"]):
        rest = replace(options.held_out, val_size=0).rows(rows["train"], targets, "examples")
        return {**rest, "val": rows["val"]}
    return rows


def _input(options: SetOptions, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form of an input as plain data."""
    found: dict[str, Any] = {"kind": chosen["input"], "columns": list(chosen["columns"])}
    if chosen["input"] == "text":
        if options.tokenizer is None:
            hint = "a folder with a tokenizer.json, or a name on the Hugging Face Hub; that of model.name by default"
            raise ConfigError([Problem("data.tokenizer", "texts need a tokenizer", None, hint)])
        path = find_file(options.tokenizer, FILE, "data.tokenizer")
        next_token = chosen["kind"] == LANGUAGE_MODEL
        tokenizer = read_pretrained(str(path), end=next_token, padding=not next_token)
        return {**found, "tokenizer": tokenizer.plain(), "length": options.length}
    if chosen["input"] == "image":
        height, width = options.size if isinstance(options.size, tuple) else (options.size, options.size)
        return {**found, "form": vars(Form(height, width, options.mode, options.fit)).copy()}
    return found


def _shape(options: SetOptions, source: Any, about: Mapping[str, Any]) -> list[int]:
    if about["kind"] == "text":
        return [options.length]
    if about["kind"] == "image":
        return list(Form(**about["form"]).shape)
    import pyarrow
    from pyarrow import compute

    for name in about["columns"]:
        column: Any = source.with_format("arrow")[:][name]
        if column.null_count:
            raise ConfigError([Problem("data.inputs", f"{column.null_count:,} of its rows have no value", name)])
        if pyarrow.types.is_list(column.type) and len(lengths := compute.unique(compute.list_value_length(column))) > 1:
            message = f"its rows have different lengths, such as {lengths[0]} and {lengths[1]}"
            raise ConfigError([Problem("data.inputs", message, name)])
        values = column
        while pyarrow.types.is_list(values.type) or pyarrow.types.is_fixed_size_list(values.type):
            values = compute.list_flatten(values)
        if not pyarrow.types.is_floating(values.type):
            continue
        if bad := compute.sum(compute.invert(compute.is_finite(values))).as_py():
            raise ConfigError([Problem("data.inputs", f"{bad:,} of its numbers are NaN or infinite", name)])
    return list(numbers_of(source[:1], about["columns"]).shape[1:])


def texts_of(batch: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
    """Return the texts of some rows, or their pairs; a missing one is empty."""
    parts = [[text or "" for text in batch[name]] for name in columns]
    return parts[0] if len(parts) == 1 else [*zip(*parts, strict=True)]


def numbers_of(batch: Mapping[str, Any], columns: Sequence[str]) -> np.ndarray:
    """Return the numbers of some rows, float32 [rows, ...]: of one column as they are, of several side by side.

    Raises:
        ConfigError: rows of a column have different shapes.
    """
    try:
        parts = [np.asarray(batch[name], np.float32) for name in columns]
    except (ValueError, TypeError):
        raise ConfigError(
            [Problem("data.inputs", "its rows have different lengths, or no values", [*columns])]
        ) from None
    return parts[0] if len(parts) == 1 and parts[0].ndim > 1 else np.stack([one.reshape(len(one)) for one in parts], 1)


def _blocks(
    options: SetOptions,
    source: Any,
    labels: np.ndarray,
    chosen: Mapping[str, Any],
    about: dict[str, Any],
    layout: Layout | None,
    notes: list[str],
) -> PreparedSet:
    """Return all texts as one row of tokens for each part, cut into sequences whose targets are shifted by one."""
    if len(chosen["columns"]) > 1:
        raise ConfigError([Problem("data.text", "a language model reads one column", [*chosen["columns"]])])
    made = layout or {"input": _input(options, chosen), "target": about, "shape": [options.length]}
    tokenizer, length = tokenizer_of(made["input"]), made["shape"][0]
    splits, streams = [*dict.fromkeys(labels.tolist())], []
    for part in splits:
        texts = texts_of(source.select(np.flatnonzero(labels == part))[:], chosen["columns"])
        end = np.array([tokenizer.end], np.uint32)
        pieces = [one for tokens in tokenizer.encode(texts) for one in (tokens, end)]
        streams.append(np.concatenate(pieces).astype(smallest_type(tokenizer.size)))
        if len(streams[-1]) <= length:
            message = f"the split for {part} has {len(streams[-1]):,} tokens, and a sequence needs {length + 1:,}"
            raise ConfigError([Problem("data.length", message, length, "a smaller one, or more text")])
    tokens, starts, counts = cut_streams(streams, length)
    parts = np.repeat(splits, counts)
    rows = _rows(options, parts, np.zeros(len(parts)))
    return PreparedSet(source, np.zeros(len(parts), np.int64), rows, made, tokens, starts, notes)
