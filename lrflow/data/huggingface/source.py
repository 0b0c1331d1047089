"""Where a data set of `datasets` is read from, and which of its splits and columns are used; without torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrflow.data.images.decoding import FITS, MODES, SIZES
from lrflow.data.splits import PARTS, HeldOut, part_named
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened
from lrflow.files import did_you_mean_path, expanded, is_file, is_folder
from lrflow.hub import is_path, not_found
from lrflow.limits import TEXT, Limit, one_of, outside, whole
from lrflow.objectives import LANGUAGE_MODEL

Layout = dict[str, Any]
"""What is fitted to the training part, as plain data: `input` and its form, `target`, and the `shape` of an input."""

BUILDERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
"""How files of data are read, by their ending."""

KINDS = ("regression", "binary", "multiclass", LANGUAGE_MODEL)

_TARGETS = ("label", "labels", "target", "class")
"""Names of columns that are taken for the target, in the order of preference."""

_COLUMNS = Limit(
    "a column, or a list of columns",
    lambda value: TEXT.holds(value) or (isinstance(value, list | tuple) and all(map(TEXT.holds, value))),
)
_LIMITS = {
    "name_or_path": TEXT,
    "subset": TEXT.or_null(),
    "text": _COLUMNS.or_null(),
    "image": TEXT.or_null(),
    "inputs": _COLUMNS.or_null(),
    "target": TEXT.or_null(),
    "tokenizer": TEXT.or_null(),
    "kind": one_of(*KINDS).or_null(),
    "length": whole(1),
    "size": SIZES,
    "mode": one_of(*MODES),
    "fit": one_of(*FITS),
}


@dataclass(frozen=True)
class SetOptions:
    """The options of `data=huggingface`; the arguments of `lrflow.data.HuggingFace` have the same names."""

    name_or_path: str
    subset: str | None = None
    splits: tuple[tuple[str, str], ...] = ()
    text: tuple[str, ...] = ()
    image: str | None = None
    inputs: tuple[str, ...] = ()
    target: str | None = None
    kind: str | None = None
    tokenizer: str | None = None
    length: int = 128
    size: int | tuple[int, int] = 224
    mode: str = "RGB"
    fit: str = "crop"
    val_size: int | float | str = "10%"
    test_size: int | float | str = "10%"
    folds: int | None = None
    fold: int = 0
    split_seed: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> SetOptions:
        """Return the options of a config node; keys of other arguments are left out.

        Raises:
            ConfigError: every invalid value.
        """
        own = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        problems = outside(_LIMITS, own, "data")
        problems += outside(dict.fromkeys(PARTS, TEXT), own.get("splits") or {}, "data.splits")
        if problems:
            raise ConfigError(problems)
        for name in ("text", "inputs"):
            value = own.get(name)
            own[name] = (value,) if isinstance(value, str) else tuple(value or ())
        splits = own.get("splits") or {}
        if wrong := [name for name in splits if name not in PARTS]:
            problems.append(Problem("data.splits", f"expected keys of {', '.join(PARTS)}", wrong[0]))
        own["splits"] = tuple(splits.items())
        if isinstance(own.get("size"), list):
            own["size"] = tuple(own["size"])
        chosen = [name for name in ("text", "image", "inputs") if own.get(name)]
        if len(chosen) > 1:
            message = f"is given beside data.{chosen[0]}, and a model has one input"
            problems.append(Problem(f"data.{chosen[1]}", message, given[chosen[1]], "leave one of them out"))
        if len(own["text"]) > 2:
            problems.append(Problem("data.text", "expected one column, or two of pairs", given["text"]))
        found = cls(**own)
        problems += found.held_out.problems()
        if problems:
            raise ConfigError(problems)
        return found

    @property
    def held_out(self) -> HeldOut:
        """What is held out for validation and test where the data set has no such splits."""
        return HeldOut.of(vars(self))


def files_of(name: str) -> tuple[tuple[str, int, int], ...]:
    """Return path, size and time of each file of a data set on this machine; empty for one of the hub."""
    path = expanded(name)
    found = [path] if is_file(path) else sorted(path.rglob("*")) if is_path(name) else []
    stats = [(str(one), one.stat()) for one in found if one.is_file()]
    return tuple((one, stat.st_size, stat.st_mtime_ns) for one, stat in stats)


def read(options: SetOptions) -> dict[str, Any]:
    """Return the splits of a data set by their names: of a folder, a file, or a name on the hub.

    Raises:
        ConfigError: there is no such data set, or it cannot be read.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # its errors are raised too
    name = options.name_or_path
    path = expanded(name)
    local = is_file(path) or is_path(name)
    try:
        if is_file(path):
            if path.suffix.lower() not in BUILDERS:
                message = f"expected a file of {', '.join(BUILDERS)}, or a folder"
                raise ConfigError([Problem("data.name_or_path", message, name)])
            found: Any = datasets.load_dataset(BUILDERS[path.suffix.lower()], data_files={"train": str(path)})
        elif is_folder(path) and any((path / one).is_file() for one in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(str(path))
        elif local and not is_folder(path):
            message = "there is no such folder or file"
            raise ConfigError([Problem("data.name_or_path", message, name, did_you_mean_path(path))])
        else:
            found = datasets.load_dataset(str(path) if local else name, options.subset)
    except ConfigError:
        raise
    except Exception as error:  # the library, its readers and the hub raise many types
        if local:
            reason = shortened(str(error.__cause__ or error).strip().partition("\n")[0] or "it holds no data", 200)
            raise ConfigError([Problem("data.name_or_path", f"cannot be read: {reason}", name)]) from error
        raise ConfigError([not_found(name, "data.name_or_path", error)]) from error
    return dict(found) if isinstance(found, dict) else {"train": found}


def splits_of(options: SetOptions, found: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the data set of each part, `train` first, and what of it is not used."""
    given = dict(options.splits)
    problems = [
        Problem(f"data.splits.{part}", "there is no such split", name, did_you_mean(name, found))
        for part, name in given.items()
        if name not in found
    ]
    if problems:
        raise ConfigError(problems)
    named = {part: name for name in found if (part := part_named(name)) and part not in given} | given
    if "train" not in named and len(found) == 1:
        named = {"train": next(iter(found))}
    if "train" not in named:
        message = f"none of the splits {', '.join(found)} is for training"
        raise ConfigError([Problem("data.splits", message, given or None, "data.splits={train: NAME}")])
    unused = [name for name in found if name not in named.values()]
    parts = {part: found[named[part]] for part in PARTS if part in named}
    if empty := [part for part, one in parts.items() if not len(one)]:
        raise ConfigError([Problem("data.name_or_path", f"the split {named[empty[0]]} is empty", options.name_or_path)])
    return parts, [f"not used: the splits {', '.join(unused)}"] if unused else []


def columns_of(
    options: SetOptions, features: Mapping[str, Any], layout: Layout | None
) -> tuple[dict[str, Any], list[str]]:
    """Return which columns are the input and the target, and what was inferred of that."""
    from datasets import Image

    given = {"text": options.text, "image": (options.image,) if options.image else (), "inputs": options.inputs}
    problems = [
        Problem(f"data.{key}", "there is no such column", name, did_you_mean(name, features))
        for key, names in {**given, "target": (options.target,) if options.target else ()}.items()
        for name in names
        if name not in features
    ]
    if problems:
        raise ConfigError(problems)
    target = layout["target"]["column"] if layout else options.target
    words = options.kind == LANGUAGE_MODEL
    if target is None and not words and layout is None:
        target = next((name for name in _TARGETS if name in features), None)
    rest = [name for name in features if name != target]
    texts = [name for name in rest if _dtype(features[name]) in ("string", "large_string")]
    images = [name for name in rest if isinstance(features[name], Image)]
    numbers = [name for name in rest if _is_number(features[name])]
    notes = []
    if layout:
        key, names = layout["input"]["kind"], tuple(layout["input"]["columns"])
    elif any(given.values()):
        key, names = next((key, names) for key, names in given.items() if names)
    else:
        likely = ["text"] if "text" in texts else texts
        key, names = next(
            (
                (key, tuple(found))
                for key, found in (("image", images[:1]), ("text", likely[:1]), ("inputs", numbers))
                if found
            ),
            ("", ()),
        )
        if not names:
            message = f"no column of {', '.join(features)} is a text, an image or numbers"
            raise ConfigError([Problem("data.text", message, None)])
        notes.append(f"data.{key}={_listed(names)}: found by the types of the columns")
    if options.kind == LANGUAGE_MODEL and key != "text":
        hint = f"columns of text: {', '.join(texts) or 'none'}"
        raise ConfigError([Problem("data.kind", "needs a column of texts", options.kind, hint)])
    if target in names:
        raise ConfigError([Problem(f"data.{key}", "is the column of the target", target)])
    fitting = {"text": texts, "image": images, "inputs": numbers}[key]
    if wrong := [name for name in names if name not in fitting and not layout]:
        what = {"text": "text", "image": "images", "inputs": "numbers"}[key]
        hint = f"columns of {what}: {', '.join(fitting) or 'none'}"
        raise ConfigError(
            [Problem(f"data.{key}", f"the column holds {_dtype(features[wrong[0]])}, no {what}", wrong[0], hint)]
        )
    if target is None and key != "text":
        hint = f"the columns are {', '.join(features)}"
        raise ConfigError([Problem("data.target", "expected the column to predict", None, hint)])
    if target is not None and options.target is None and layout is None:
        notes.append(f"data.target={target}: found by its name")
    kind = options.kind
    if target is None:
        kind = LANGUAGE_MODEL
        if options.kind is None and layout is None:
            notes.append("data.kind=language_model: there is no target")
    return {"input": key, "columns": names, "target": target, "kind": kind}, notes


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"[{','.join(names)}]"


def _dtype(feature: Any) -> str:
    return str(getattr(feature, "dtype", type(feature).__name__))


def _is_number(feature: Any) -> bool:
    """Whether a column holds numbers: one, or an array of one shape, in each row."""
    from datasets import ClassLabel

    while (inner := getattr(feature, "feature", None)) is not None:
        feature = inner
    return not isinstance(feature, ClassLabel) and _dtype(feature).startswith(("int", "uint", "float", "bool"))


def is_unlabelled(source: Any, target: str) -> bool:
    """Return whether a split has no targets: no such column, or no value in it."""
    if target not in source.column_names:
        return True
    from datasets import ClassLabel

    first = source[0][target]
    return first is None or (isinstance(source.features[target], ClassLabel) and set(source[target][:]) <= {-1, None})
