"""The data module of texts: sequences of tokens, of which a model learns the next one or a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group, RenderableType
from torch import Tensor
from torch.utils.data import Dataset

from lrflow.data.listing import Misfit, class_table, left_out_lines, misfit_problem
from lrflow.data.module import Examples
from lrflow.data.order import SeededBatch, collate_whole
from lrflow.data.prepared import PreparedModule
from lrflow.data.splits import PARTS, kept_rows
from lrflow.data.text.files import read_file
from lrflow.data.text.options import ENDINGS, JSON_LINES, TABLES, TextOptions
from lrflow.data.text.parts import PreparedText, prepare
from lrflow.data.text.tokenization import FILE, Tokenizer, UnknownCharacterError, padded, restored, windows_of_texts
from lrflow.display import Grid
from lrflow.errors import ConfigError, Problem
from lrflow.objectives import CLASSES, LANGUAGE_MODEL
from lrflow.wording import counted, number


class Text(PreparedModule[PreparedText]):
    """Texts as sequences of tokens.

    For a language model the documents of a part are joined, each with a token for its end, and cut into sequences of
    `length`; the targets of a sequence are its tokens shifted by one, and what is left at the end of a part is not
    used. For classes each document is one sequence, cut or padded to `length`.

    Args:
        root: folder of plain texts, one document each; for classes with a folder for each class; also with folders
            `train`, `val` and `test` of these. `package:NAME/PATH` is a folder in an installed package.
        file: a plain text, or a .jsonl, .csv, .tsv or .parquet file with a document in each row.
        column: key or column of the text.
        target: key or column of the classes; None: a language model, unless `kind` says classes.
        kind: `language_model` or `classes`; None: classes if there is a `target`.
        split: key or column that says `train`, `val` or `test` for each document.
        val_file: a file for validation; with `root` a pattern of paths below it, such as `*/macbeth.md`.
        test_file: a file for the test, or a pattern.
        documents: what a document is in a plain text: `file`, `paragraphs` between empty lines, or `lines`.
        endings: endings of the names of plain texts in a folder.
        encoding: encoding of plain texts and CSV files.
        bad_files: what happens to documents that cannot be read or do not fit: `error`, or `skip`.
        length: tokens of a sequence.
        tokenizer: `bytes`, `characters`, `bpe` (trained on the training part), or a `tokenizer.json` or its folder.
        vocabulary: number of tokens of `bpe`.
        end_of_text: whether there is a token at the end of each document, for a language model.
        unknown: whether `characters` has a token for those that the training part lacks.
        cache: folder for many tokens; `auto`: the user's cache; `none`: all tokens are kept in memory.
        val_size: documents held out for validation, or a share of them such as `10%`; of a single document its end, in
            pieces of `length` characters.
        test_size: documents held out for the test, or a share of them.
        folds: number of parts of a cross-validation, of the documents that are not for the test; None: none.
        fold: the part that validates, from 0; the others train, and `val_size` does not count.
        split_seed: seed that selects the documents held out.
        batch_size: training sequences per batch and device.
        eval_batch_size: sequences per batch in validation and test; None: `batch_size`.
        drop_last: whether to leave out an epoch's last batch if it is smaller.
        num_workers: worker processes per loader.
        facts: properties of the data that the config states; see `DataModule`.

    Raises:
        ConfigError: invalid options, all in one error; in `setup`, also texts that do not fit, with their lines.
    """

    collate_fn = staticmethod(collate_whole)
    compared = ("examples", "shape", "outputs", "vocabulary", "head", "padding", "held_out")

    def __init__(
        self,
        root: str | None = None,
        file: str | None = None,
        column: str = "text",
        target: str | None = None,
        kind: str | None = None,
        split: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        documents: str = "file",
        endings: Sequence[str] = ENDINGS,
        encoding: str = "utf-8",
        bad_files: str = "error",
        length: int = 256,
        tokenizer: str = "bytes",
        vocabulary: int = 4096,
        end_of_text: bool = True,
        unknown: bool = True,
        cache: str = "auto",
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
        given = {key: value for key, value in locals().items() if key in TextOptions.__dataclass_fields__}
        self.options = TextOptions.of(given)
        self.file_types = (*self.options.endings, *JSON_LINES, *TABLES)
        super().__init__(batch_size, eval_batch_size, 0, 0, drop_last, num_workers, split_seed, facts)

    @property
    def tokens_per_example(self) -> int:
        """Tokens of a sequence, padding included."""
        return self.layout["length"] if self.layout else self.options.length

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that was fitted to the training part, or given."""
        return restored(self._layout["tokenizer"])

    @property
    def next_token(self) -> Tokenizer | None:
        """The tokenizer, if the next token is learned; None: classes are."""
        return self.tokenizer if self._layout["head"] == LANGUAGE_MODEL else None

    def load(self) -> tuple[Examples, None]:
        """All sequences, as `Sequences` that are read batch by batch; their classes, or a zero each."""
        prepared = self._take(prepare(self.options, self.layout))
        kept, _ = kept_rows(prepared.rows)
        sequences: Any = Sequences(prepared.tokens, prepared.starts, kept, prepared.layout["length"])
        targets = prepared.targets[kept] if len(prepared.targets) else np.zeros(len(kept), np.int64)
        return Examples(sequences, torch.from_numpy(targets)), None

    @property
    def input_type(self) -> type:
        """`Sequences`, which are read batch by batch."""
        return Sequences

    def split(self, pool: Examples) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sequences of the parts, as folders, files, a column or sizes define them."""
        assert self._prepared is not None
        _, rows = kept_rows(self._prepared.rows)
        train, val, test = (torch.from_numpy(rows[part]) for part in PARTS)
        return train, val, test

    def normalise(self, inputs: Tensor) -> Tensor:
        """Convert tokens to int64."""
        return inputs.long()

    def _part(self, examples: Examples) -> Any:
        return TokenSet(examples.inputs, examples.targets)  # type: ignore[arg-type]

    def read(self, path: Path, key: str) -> Tensor:
        """Return the documents in a file; their targets are not read.

        Returns:
            For classes sequences [documents, length], cut or padded; for a language model those of
            `tokenization.windows_of_texts`.

        Raises:
            ConfigError: documents cannot be read, are empty, or have characters that the vocabulary lacks.
        """
        found = list(read_file(path, self.options, key, labelled=False))
        if mistakes := [one for one in found if isinstance(one, Misfit)]:
            raise ConfigError([misfit_problem(mistakes, key, str(path), skips=True)])
        texts = [one.text for one in found if not isinstance(one, Misfit)]
        tokenizer, length = self.tokenizer, self._layout["length"]
        try:
            if self.next_token is not None:
                return torch.from_numpy(windows_of_texts(texts, tokenizer, length))
            return torch.from_numpy(padded(tokenizer.encode(texts), length, tokenizer).astype(np.int64))
        except UnknownCharacterError as error:
            raise ConfigError([Problem(key, str(error), str(path))]) from None

    def example_inputs(self) -> Tensor | None:
        """Two sequences of the first token; None before `layout` is fitted."""
        return None if self.layout is None else torch.zeros(2, self.layout["length"], dtype=torch.int64)

    def describe(self) -> RenderableType | None:
        """The documents, tokens and sequences of each part, the tokenizer, the classes, and what was left out."""
        prepared = self._prepared or prepare(self.options, self.layout)
        layout, counts = prepared.layout, prepared.counts
        tokenizer, length = restored(layout["tokenizer"]), layout["length"]
        documents = sum(counts["documents"].values())
        of = "1 document, cut into parts" if counts.get("contiguous") else counted(documents, "document")
        lines = [
            f"{self.options.named[1]}: {of}, {sum(counts['tokens'].values()):,} tokens",
            f"tokenizer: {tokenizer.describe()}, a vocabulary of {tokenizer.size:,}",
        ]
        lines += left_out_lines(prepared.skipped)
        if counts.get("ignored"):
            lines.append(f"not read: {counted(counts['ignored'], 'file')} with other endings than data.endings")
        if any(counts["unknown"].values()):
            unknown = ", ".join(f"{part} {count:,}" for part, count in counts["unknown"].items() if count)
            lines.append(f"characters that the training part lacks: {unknown}")
        if prepared.source:
            lines.append(f"tokens in {prepared.source}")
        if layout["head"] == CLASSES:
            cut = f", {counts['cut']:,} of them cut" if counts["cut"] else ""
            lines.append(f"sequences of {length:,} tokens{cut}; the longest document has {counts['longest']:,}")
            return Group(*lines, class_table(layout["target"]["classes"], prepared.targets, prepared.rows))
        lines.append(f"sequences of {length:,} tokens; {counts['left']:,} tokens at the ends of the parts fill none")
        grid = Grid("<part", "documents", "tokens", "sequences", "bytes per token")
        for part in PARTS:
            cells = [counts["documents"][part], counts["tokens"][part], len(prepared.rows[part])]
            ratio = prepared.facts["bytes_per_token"].get(part)
            grid.row(part, *(f"{cell:,}" for cell in cells), "" if ratio is None else number(ratio))
        return Group(*lines, grid)

    def describe_inputs(self) -> list[dict[str, Any]]:
        """What the numbers of a sequence are: the length, and the tokenizer without its file."""
        tokenizer = self.tokenizer
        special = {name: getattr(tokenizer, name) for name in ("end", "unknown", "padding")}
        kept = {name: value for name, value in tokenizer.plain().items() if name not in ("content", *special)}
        return [{"kind": "tokens", "length": self._layout["length"], "tokenizer": kept, **special}]

    def export_files(self) -> dict[str, str]:
        """The `tokenizer.json` of a tokenizer of the library `tokenizers`."""
        content = self._layout["tokenizer"].get("content")
        return {FILE: content} if content else {}


class Sequences(Dataset[Any]):
    """Some of the sequences of a data set, which are read when they are fetched.

    Args:
        tokens: of a language model all tokens [tokens]; for classes [documents, length].
        starts: of a language model the place of each sequence in `tokens`; empty: there are classes.
        rows: indices of these sequences; int64.
        length: tokens of an input.
    """

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, rows: np.ndarray, length: int) -> None:
        self.tokens, self.starts, self.rows, self.length = tokens, starts, rows, length
        self.shifted = len(self.starts) > 0
        self._open()

    def _open(self) -> None:
        """Make what reads the sequences; it is kept, since making it takes longer than reading a batch."""
        read = np.lib.stride_tricks.sliding_window_view(self.tokens, self.length + 1) if self.shifted else self.tokens
        self._at = read.__getitem__

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_at"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def shape(self) -> tuple[int, int]:
        """Number of sequences, and their length."""
        return len(self.rows), self.length

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Sequences:
        found = Sequences.__new__(Sequences)
        vars(found).update(vars(self), rows=self.rows[rows.numpy()])
        return found

    def fetch(self, rows: np.ndarray) -> Tensor:
        """Return the tokens of these of the sequences, int64 [rows, length]; [rows, length + 1] with targets."""
        chosen = self.rows[rows]
        return torch.from_numpy(self._at(self.starts[chosen] if self.shifted else chosen).astype(np.int64))


class TokenSet(Dataset[Any]):
    """Sequences and their targets, fetched batch by batch.

    Args:
        inputs: the sequences.
        targets: the class of each; those of a language model are the tokens themselves.
    """

    def __init__(self, inputs: Sequences, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """A sequence [length], and its class or its next tokens [length]."""
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """A batch: sequences [batch, length], and their classes [batch] or their next tokens [batch, length]."""
        rows = indices.rows if isinstance(indices, SeededBatch) else np.asarray(indices, np.int64)
        tokens = self.inputs.fetch(rows)
        if self.inputs.shifted:
            return [tokens[:, :-1], tokens[:, 1:]]
        return [tokens, self.targets[torch.from_numpy(rows)]]
