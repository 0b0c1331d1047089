"""Which shards there are: files named one by one, by {000..009}, by * and ?, or all those of a folder."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lrflow.errors import ConfigError, Problem
from lrflow.files import did_you_mean_path, expanded, is_file, is_folder

TAR, PARQUET = ".tar", ".parquet"

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_MOST = 1_000_000
"""Number of names that a pattern may stand for."""
_LISTED = 3


def find_shards(given: str | Sequence[str], key: str) -> list[Path]:
    """Return the files of some shards, in the order in which they are given; those of a pattern in that of their names.

    Args:
        given: a path, or several. `{000..009}` and `{a,b}` stand for several names, also in `*` and `?` patterns; a
            folder stands for its tar or Parquet files.
        key: config key that names them.

    Raises:
        ConfigError: there are no such files, they are of different kinds, or one is given twice.
    """
    found: list[Path] = []
    problems: list[Problem] = []
    for text in [given] if isinstance(given, str) else given:
        files, problem = _files_of(text, key)
        found += files
        problems += [problem] if problem else []
    if not problems and not found:
        problems.append(Problem(key, "names no file", given))
    problems += [] if problems else _misfits(found, given, key)
    if problems:
        raise ConfigError(problems)
    return found


def is_parquet(path: str | Path) -> bool:
    """Return whether a shard is a Parquet file, and no tar file."""
    return str(path).lower().endswith(PARQUET)


def _files_of(text: str, key: str) -> tuple[list[Path], Problem | None]:
    try:
        names = _expanded(text)
    except ValueError as error:
        return [], Problem(key, str(error), text)
    found: list[Path] = []
    missing: list[str] = []
    for name in names:
        path = expanded(name)
        if is_file(path):
            found.append(path)
        elif is_folder(path):
            inside = [one for one in path.iterdir() if one.suffix.lower() in (TAR, PARQUET) and is_file(one)]
            if not inside:
                return [], Problem(key, f"the folder {path} has no .tar or .parquet file", text)
            found += _in_order(one for one in inside if not one.name.startswith("."))
        elif any(sign in name for sign in "*?["):
            matches = [Path(one) for one in glob.glob(str(path)) if is_file(Path(one))]
            if not matches:
                return [], Problem(key, "matches no file", text, did_you_mean_path(path))
            found += _in_order(matches)
        else:
            missing.append(name)
    if missing:
        what = ", ".join(missing[:_LISTED])
        what += f" and {len(missing) - _LISTED:,} more" if len(missing) > _LISTED else ""
        what = "there is no such file or folder" if names == [text] else f"there is no {what}"
        return [], Problem(key, what, text, did_you_mean_path(Path(missing[0])))
    return found, None


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """Return files in the order of their names, by which `2.tar` comes before `10.tar`."""

    def parts(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]

    return sorted(paths, key=parts)


def _expanded(text: str) -> list[str]:
    """Return the names that a pattern with braces stands for.

    Raises:
        ValueError: a range runs backwards, or there are too many names.
    """
    pieces: list[list[str]] = []
    at = 0
    for match in sorted([*_RANGE.finditer(text), *_CHOICE.finditer(text)], key=lambda one: one.start()):
        pieces.append([text[at : match.start()]])
        at = match.end()
        if match.re is _CHOICE:
            pieces.append(match[1].split(","))
            continue
        first, last = int(match[1]), int(match[2])
        if last < first or last - first >= _MOST:
            raise ValueError(f"the range {match[0]} has no numbers, or more than {_MOST:,}")
        width = len(match[1]) if match[1].startswith("0") or len(match[1]) == len(match[2]) else 0
        pieces.append([f"{number:0{width}d}" for number in range(first, last + 1)])
    pieces.append([text[at:]])
    return ["".join(parts) for parts in itertools.product(*pieces)]


def _misfits(found: Sequence[Path], given: object, key: str) -> list[Problem]:
    """Return the problems of files that are no shards, of several kinds, or given twice."""
    for path in found:
        name = path.name.lower()
        if name.endswith(_COMPRESSED):
            message = f"{path} is compressed as a whole: a sample in it is found only by reading all before it"
            return [Problem(key, message, given, "expected .tar; unpack it with gunzip, xz -d or zstd -d")]
        if not name.endswith((TAR, PARQUET)):
            return [Problem(key, f"expected .tar or .parquet files, found {path}", given)]
    if len({is_parquet(path) for path in found}) > 1:
        return [Problem(key, "names tar and Parquet files; expected shards of one kind", given)]
    seen = set()
    for path in found:
        if (where := path.resolve()) in seen:
            return [Problem(key, f"names {path} twice", given)]
        seen.add(where)
    return []
