"""The options of `data=text` for its files, and what is wrong with their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrflow.data.listing import Misfit, misfit_problem
from lrflow.data.splits import HeldOut
from lrflow.data.table.file import check_encoding
from lrflow.errors import ConfigError, Problem
from lrflow.limits import TEXT, Limit, one_of, outside, whole
from lrflow.objectives import CLASSES, HEADS, LANGUAGE_MODEL

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", ".parquet")
ENDINGS = (".txt", ".md", ".rst", ".text")
"""Endings of plain texts in a folder."""

_DOCUMENTS = ("file", "paragraphs", "lines")
_LONGEST = 1 << 20

_LIMITS = {
    "root": TEXT.or_null(),
    "file": TEXT.or_null(),
    "column": TEXT,
    "target": TEXT.or_null(),
    "kind": one_of(*HEADS).or_null(),
    "split": TEXT.or_null(),
    "val_file": TEXT.or_null(),
    "test_file": TEXT.or_null(),
    "documents": one_of(*_DOCUMENTS),
    "endings": Limit(
        "endings of file names, such as [.txt]",
        lambda value: (
            isinstance(value, list | tuple) and bool(value) and all(str(one).startswith(".") for one in value)
        ),
    ),
    "length": whole(1, _LONGEST),
    "tokenizer": TEXT,
    "vocabulary": whole(257, _LONGEST),
    "bad_files": one_of("error", "skip"),
    "cache": Limit("auto, none, or a folder", lambda value: isinstance(value, str) and bool(value)),
}


@dataclass(frozen=True)
class TextOptions:
    """The options of `data=text` for its files; the arguments of `lrflow.data.Text` have the same names."""

    root: str | None = None
    file: str | None = None
    column: str = "text"
    target: str | None = None
    kind: str | None = None
    split: str | None = None
    val_file: str | None = None
    test_file: str | None = None
    documents: str = "file"
    endings: tuple[str, ...] = ENDINGS
    encoding: str = "utf-8"
    bad_files: str = "error"
    length: int = 256
    tokenizer: str = "bytes"
    vocabulary: int = 4096
    end_of_text: bool = True
    unknown: bool = True
    cache: str = "auto"
    val_size: int | float | str = "10%"
    test_size: int | float | str = "10%"
    folds: int | None = None
    fold: int = 0
    split_seed: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> TextOptions:
        """Return the options of a config node; keys of other arguments are left out.

        Raises:
            ConfigError: every invalid value.
        """
        own = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        problems = outside(_LIMITS, own, "data") + check_encoding(own.get("encoding", "utf-8"))
        own["endings"] = tuple(str(one).lower() for one in own.get("endings") or ENDINGS)
        found = cls(**own)
        problems += found.held_out.problems()
        if not problems:
            problems += found._contradictions()
        if problems:
            raise ConfigError(problems)
        return found

    def _contradictions(self) -> Iterator[Problem]:
        hint = "data.file=FILE.txt, .jsonl, .csv or .parquet, or data.root=FOLDER"
        if (self.root is None) == (self.file is None):
            what = "expected either a file or a folder of texts"
            yield Problem("data.file", what, self.file if self.file is not None else ..., hint)
        elif self.root is not None:
            for name in ("target", "split"):
                if (value := getattr(self, name)) is not None:
                    message = f"is a key of the documents in data.file; of data.root the folders name the {name}"
                    yield Problem(f"data.{name}", message, value, "data.kind=classes" if name == "target" else None)
        elif self.kind == CLASSES and self.target is None:
            yield Problem("data.target", "expected the key or column of the classes", hint="data.target=...")
        elif self.kind == LANGUAGE_MODEL and self.target is not None:
            yield Problem("data.target", "a language model has no other target than the text", self.target)
        elif self.is_plain and (self.target or self.split):
            name = "target" if self.target else "split"
            message = f"a plain text has no {name}; expected data.file to end in {', '.join((*JSON_LINES, *TABLES))}"
            yield Problem(f"data.{name}", message, getattr(self, name))
        elif self.target or self.split:
            for key in ("val_file", "test_file"):
                if (name := getattr(self, key)) and _is_plain(name):
                    message = f"is a plain text; expected a file with the keys of data.file, {self.file}"
                    yield Problem(f"data.{key}", message, name)

    @property
    def head(self) -> str:
        """What is learned: `language_model` or `classes`."""
        return self.kind or (CLASSES if self.target is not None else LANGUAGE_MODEL)

    @property
    def needs_library(self) -> bool:
        """Whether the tokenizer is one of the library `tokenizers`."""
        return self.tokenizer not in ("bytes", "characters")

    @property
    def is_plain(self) -> bool:
        """Whether `file` is a plain text, without keys."""
        return self.file is not None and _is_plain(self.file)

    @property
    def held_out(self) -> HeldOut:
        """What is held out for validation and test where no folder, file and column defines the parts."""
        return HeldOut(self.val_size, self.test_size, self.folds, self.fold, self.split_seed)

    @property
    def skips(self) -> bool:
        """Whether bad files are left out and counted."""
        return self.bad_files == "skip"

    @property
    def named(self) -> tuple[str, str | None]:
        """The key that names the texts, and its value."""
        return ("data.file", self.file) if self.file is not None else ("data.root", self.root)

    def mistaken(self, mistakes: Sequence[Misfit]) -> Problem:
        """Return the problem of texts that do not fit: the first few of them, and the number of the others."""
        return misfit_problem(mistakes, *self.named, self.skips)


def _is_plain(name: str) -> bool:
    return not name.lower().endswith((*JSON_LINES, *TABLES))
