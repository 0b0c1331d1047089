"""Samples in tar shards as WebDataset writes them, found by the headers of their files."""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lrflow.data.images.decoding import FILE_TYPES
from lrflow.data.listing import Misfit
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened

_BLOCK = tarfile.BLOCKSIZE
_PEEKED = 32
"""Samples of the first shard by which it is known what a sample consists of."""
_LONGEST = 1 << 16
"""Bytes that the file of a target may have, if it is no JSON."""
_IMAGES = tuple(one.removeprefix(".") for one in FILE_TYPES)
_ARRAYS = ("npy",)
_SPELT = 3
"""Endings up to which they are listed in a message."""
_LABELS = ("cls", "txt", "text")
LACKS, DAMAGED, TARGETS = "samples without a file", "damaged ends of shards", "samples without a target"
"""Reasons under which samples are counted that are left out."""


class File(NamedTuple):
    """A file of a sample, such as `0001.label.json`.

    Args:
        endings: what may follow the name of the sample: `png`.
        keys: of the value in a JSON file; empty: it is the file itself.
    """

    endings: tuple[str, ...]
    keys: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file, for people."""
        if len(self.endings) > _SPELT:
            return "image"
        return ".".join([" or ".join(self.endings), *self.keys])

    @property
    def kind(self) -> str:
        """What it holds: `image`, `array` or `json`."""
        if self.endings[0].endswith("json"):
            return "json"
        return "array" if self.endings[0].rpartition(".")[2] in _ARRAYS else "image"


@dataclass
class Index:
    """The samples of a shard.

    Args:
        places: of the input of each sample: offset and size in bytes.
        targets: text of the target of each sample.
        mistakes: samples that do not fit.
    """

    places: list[tuple[int, int]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    mistakes: list[Misfit] = field(default_factory=list)


def choose_files(path: Path, source: str | None, target: str | None) -> tuple[File, File]:
    """Return which files of a sample are the input and the target.

    Args:
        path: the first shard.
        source: ending of the input, or `json.KEY`; None: the image, or the array.
        target: ending of the target, or `json.KEY`; None: `cls`.

    Raises:
        ConfigError: samples have no such files, or several that could be the input.
    """
    counts: Counter[str] = Counter()
    damage: list[Misfit] = []
    for number, (_, files) in enumerate(_samples(path, damage)):
        counts.update(name for name, *_ in files)
        if number == _PEEKED:
            break
    known = [name for name, count in counts.items() if 2 * count >= max(counts.values())] if counts else []
    images = [name for name in counts if name in _IMAGES]
    if not counts:
        message = damage[0].message if damage else "has no samples"
        raise ConfigError([Problem("data.shards", f"{path}: {message}", str(path))])
    problems = []
    if source is not None:
        chosen = _named(source, list(counts))
        if chosen is None or (chosen.kind == "image" and chosen.endings[0].rpartition(".")[2] not in _IMAGES):
            problems.append(_unfit("input", source, counts, "an image, npy or json.KEY"))
    elif images:
        chosen = File(_IMAGES)
    else:
        several = [name for name in known if name.rpartition(".")[2] in (*_IMAGES, *_ARRAYS)]
        chosen = File((several[0],)) if len(several) == 1 else None
        if chosen is None:
            problems.append(_unfit("input", source, counts, "an image, npy or json.KEY"))
    label = _named(target or "cls", list(counts))
    if label is None or (label.kind != "json" and label.endings[0].rpartition(".")[2] not in _LABELS):
        problems.append(_unfit("target", target, counts, "cls, txt or json.KEY"))
    if problems or chosen is None or label is None:
        raise ConfigError(problems)
    return chosen, label


def _named(text: str, known: Sequence[str]) -> File | None:
    """Return the file that an option names; None if samples have none."""
    several = tuple(one.strip().removeprefix(".").lower() for one in text.split(";"))
    if any(one in known for one in several) and not any(one.endswith("json") for one in several):
        return File(several)
    for name in known:
        if name.endswith("json") and text.startswith(f"{name}."):
            return File((name,), tuple(text[len(name) + 1 :].split(".")))
    return None


def _unfit(option: str, value: str | None, counts: Mapping[str, int], expected: str) -> Problem:
    names = ", ".join(sorted(counts))
    hint = did_you_mean(value, list(counts)) if value is not None and value not in counts else None
    return Problem(f"data.{option}", f"expected {expected}; samples have {names}", value, hint)


def index_tar(path: Path, source: File, target: File | None) -> Index:
    """Return the samples of a shard; of the files only headers and targets are read.

    Args:
        path: of the shard.
        source: the input.
        target: the target; None: samples need none.
    """
    found = Index()
    with open(path, "rb") as file:
        for key, files in _samples(path, found.mistakes):
            where = f"{path}: {key}"
            inputs = [one for one in files if one[0] in source.endings]
            labels = [one for one in files if target and one[0] in target.endings]
            if len(inputs) != 1 or (target and len(labels) != 1):
                bad, of = (target, labels) if target and len(inputs) == 1 else (source, inputs)
                message = f"has {len(of)} files for {bad.name}" if of else f"has no {bad.name}"
                found.mistakes.append(Misfit(where, message, LACKS))
                continue
            try:
                text = _text_of(file, labels[0], target) if target else ""
            except ValueError as error:
                found.mistakes.append(Misfit(where, str(error), TARGETS))
                continue
            found.places.append(inputs[0][1:])
            found.targets.append(text)
    return found


_Files = list[tuple[str, int, int]]
"""Ending, offset and size of each file of a sample."""


def _samples(path: Path, mistakes: list[Misfit]) -> Iterator[tuple[str, _Files]]:
    """Yield the samples of a shard: files that follow each other and whose names differ after the first point.

    Args:
        path: of the shard.
        mistakes: to which damage of the shard is added.
    """
    key: str | None = None
    files: _Files = []
    for name, offset, size in _members(path, mistakes):
        folder, _, own = name.rpartition("/")
        stem, _, ending = own.partition(".")
        if not stem or own.startswith("__"):  # hidden files, and those of WebDataset itself
            continue
        place = f"{folder}/{stem}" if folder else stem
        if place != key:
            if key is not None:
                yield key, files
            key, files = place, []
        files.append((ending.lower(), offset, size))
    if key is not None:
        yield key, files


def _members(path: Path, mistakes: list[Misfit]) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of the files in a tar file.

    `tarfile` ends in silence where a header is damaged, and where a file ends before the two empty blocks that end it.
    """

    def damaged(message: str) -> None:
        mistakes.append(Misfit(str(path), message, DAMAGED))

    whole = os.stat(path).st_size
    last = ""
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                vars(tar)["members"] = []  # it keeps all of them, which is much memory
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    damaged(f"{member.name} is a link or a sparse file, of which this shard has no content")
                    continue
                if member.offset_data + member.size > whole:
                    damaged(f"is cut off within {member.name}")
                    return
                last = member.name
                yield member.name, member.offset_data, member.size
            end = tar.offset
        with open(path, "rb") as file:
            file.seek(end)
            header = file.read(_BLOCK)
        if 0 < len(header) < _BLOCK:
            damaged(f"is cut off after {last}")
        elif header.strip(b"\0"):
            damaged(f"the header after {last} is damaged, so that nothing behind it can be found")
        elif not header:
            damaged(f"ends after {last} without the empty blocks that end a tar file, so it may be cut off")
    except tarfile.ReadError as error:
        damaged(f"is no tar file, or is cut off: {error}" if not last else f"is cut off after {last}: {error}")
    except OSError as error:
        damaged(f"cannot be read: {error.strerror or error}")


def _text_of(file: Any, place: tuple[str, int, int], target: File) -> str:
    """Return the target in a file as text.

    Raises:
        ValueError: there is none; the message says why.
    """
    _, offset, size = place
    if not target.keys and size > _LONGEST:
        raise ValueError(f"its file {target.name} has {size:,} bytes, which is no class and no number")
    file.seek(offset)
    content = file.read(size)
    if target.keys:
        return _as_text(value_in(content, target.keys), target)
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError(f"its file {target.name} is no text in UTF-8") from None
    if not text:
        raise ValueError(f"its file {target.name} is empty")
    return text


def _as_text(value: object, target: File) -> str:
    if isinstance(value, bool | int | float | str) and str(value).strip():
        return str(value).strip()
    raise ValueError(f"{target.name} is {shortened(json.dumps(value))}, and no class and no number")


def value_in(content: bytes, keys: Sequence[str]) -> Any:
    """Return a value in a JSON file.

    Raises:
        ValueError: it is no JSON, or has no such value.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its JSON cannot be read: {shortened(str(error), 80)}") from None
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"its JSON has no {'.'.join(keys)}")
        value = value[key]
    return value


def name_at(path: str, offset: int) -> str:
    """Return the name of the file in a tar file whose content begins at an offset, for a message."""
    try:
        with open(path, "rb") as file:
            file.seek(offset - _BLOCK)
            header = file.read(_BLOCK)
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
    except (OSError, tarfile.TarError):
        return f"byte {offset:,}"
