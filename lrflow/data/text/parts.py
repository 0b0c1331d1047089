"""Texts prepared for training: read, checked, split by documents, and turned into tokens; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.data.listing import Misfit, check_trained, classes_of, counted_reasons, rows_of
from lrflow.data.splits import PARTS, examples_of, share_of
from lrflow.data.text.cache import Stored, stored
from lrflow.data.text.files import Documents, files_of, read_documents
from lrflow.data.text.options import TextOptions
from lrflow.data.text.tokenization import (
    Bytes,
    Characters,
    Tokenizer,
    UnknownCharacterError,
    cut_streams,
    padded,
    read_pretrained,
    restored,
    smallest_type,
    trained_bpe,
)
from lrflow.errors import ConfigError, Problem, shortened
from lrflow.objectives import CLASSES, LANGUAGE_MODEL

Layout = dict[str, Any]
"""What is fitted to the training part, as plain data: `head`, `length`, `tokenizer` and `target`."""


@dataclass(frozen=True, eq=False)
class PreparedText:
    """Texts as a data module needs them.

    Args:
        tokens: of a language model all tokens, part after part [tokens]; for classes [documents, length], padded.
        starts: of a language model the place of each example in `tokens`; an example has `length + 1` tokens.
        targets: class numbers int64 [documents]; empty for a language model.
        rows: of each part, the indices of its examples.
        layout: what is fitted to the training part.
        facts: what a config has to know before the data is read; see `lrflow.config.schemas.objects.Facts`.
        sizes: what is held out for `val` and `test`, in the unit of `data.val_size`.
        counts: numbers for people: documents and tokens by part, tokens that fill no sequence, documents cut, ...
        skipped: the number of documents that were left out, by the reason.
        source: where the tokens lie: a file, or an empty text if they are in memory.
    """

    tokens: np.ndarray
    starts: np.ndarray
    targets: np.ndarray
    rows: Mapping[str, np.ndarray]
    layout: Layout
    facts: Mapping[str, Any]
    sizes: Mapping[str, int]
    counts: Mapping[str, Any]
    skipped: Mapping[str, int] = field(default_factory=dict)
    source: str = ""


def prepare(options: TextOptions, layout: Layout | None = None) -> PreparedText:
    """Read, check, split and tokenize texts; the last results are kept as long as the files do not change.

    Args:
        options: of the texts.
        layout: what an earlier training was fitted to; None: it is fitted to the training part.

    Raises:
        ConfigError: there are no such files, some do not fit, or a part has too little text.
    """
    files = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files_of(options))
    content = json.dumps(layout) if layout else None
    if (options, content, files) not in _last:
        found = _prepared(options, content, files)
        for key in list(_last)[:-2]:
            del _last[key]
        _last[options, content, files] = _last[_settled(options, found.sizes), content, files] = found
    return _last[options, content, files]


_last: dict[tuple[TextOptions, str | None, tuple[tuple[str, int, int], ...]], PreparedText] = {}
"""The last results: each by the options that it was made of, and by the same with sizes as numbers."""


def _settled(options: TextOptions, sizes: Mapping[str, int]) -> TextOptions:
    """Return the options with numbers of what is held out instead of shares, as a checked config has them."""
    return replace(options, val_size=sizes["val"], test_size=sizes["test"])


def _prepared(options: TextOptions, layout: str | None, files: tuple[tuple[str, int, int], ...]) -> PreparedText:
    found = stored(
        options.cache,
        [str(Path(str(options.named[1])).resolve()), layout or ""],
        repr(options),
        lambda made: repr(_settled(options, made.about["sizes"])),
        [path for path, _, _ in files],
        lambda: _made(options, layout),
    )
    about = found.about
    return PreparedText(
        found.tokens,
        found.arrays["starts"],
        found.arrays["targets"],
        {part: found.arrays[part] for part in PARTS},
        about["layout"],
        about["facts"],
        about["sizes"],
        about["counts"],
        about["skipped"],
        str(found.file or ""),
    )


def _made(options: TextOptions, given: str | None) -> Stored:
    layout: Layout | None = json.loads(given) if given else None
    documents = read_documents(options)
    listing, mistakes = documents.listing, list(documents.listing.mistakes)
    kept = np.arange(len(documents.texts))
    targets = np.zeros(len(kept))
    classes: list[str] = []
    if options.head == CLASSES:
        targets, classes, kept = classes_of(listing, kept, layout, mistakes, "document")
    if mistakes and not options.skips:
        raise ConfigError([options.mistaken(mistakes)])
    nothing = Problem(options.named[0], "no document is left to train on", options.named[1])
    if not len(kept):
        raise ConfigError([options.mistaken(mistakes) if mistakes and not len(documents.texts) else nothing])
    if options.head == CLASSES:
        if layout is None and len(classes) < 2:
            names = ", ".join(map(shortened, classes)) or "none"
            raise ConfigError([Problem("data.target", f"expected at least two classes, found {names}", options.target)])
        rows = rows_of(options.held_out, listing.parts, kept, targets, "document", nothing)
        if layout is None:
            check_trained(targets, rows["train"], classes, "document", options.val_size)
        made = _sequences(options, documents, rows, classes, layout)
        made.arrays["targets"] = np.maximum(targets, 0)
    else:
        made = _blocks(options, documents, kept, nothing, layout)
    made.about["skipped"] = counted_reasons(mistakes)
    made.about["counts"]["ignored"] = documents.ignored
    return made


def _tokenizer(options: TextOptions, texts: Sequence[str], layout: Layout | None) -> Tokenizer:
    """Return the tokenizer of an earlier training, or one fitted to the texts of the training part."""
    if layout is not None:
        return restored(layout["tokenizer"])
    classes = options.head == CLASSES
    end = options.end_of_text and not classes
    if options.tokenizer == "bytes":
        return Bytes(end, classes)
    if options.tokenizer == "characters":
        return Characters("".join(sorted(set().union(*texts))), end, options.unknown, classes)
    if options.tokenizer == "bpe":
        return trained_bpe(texts, options.vocabulary, end, classes)
    return read_pretrained(options.tokenizer, end, classes)


def _encoded(
    tokenizer: Tokenizer, texts: Sequence[str], names: Sequence[str], options: TextOptions
) -> list[np.ndarray]:
    try:
        return tokenizer.encode(texts)
    except UnknownCharacterError as error:
        mistake = Misfit(names[error.text], str(error), "")
        hint = "data.unknown=true has a token for characters that the training part lacks"
        raise ConfigError([replace(options.mistaken([mistake]), hint=hint)]) from None


def _sequences(
    options: TextOptions,
    documents: Documents,
    rows: Mapping[str, np.ndarray],
    classes: Sequence[str],
    layout: Layout | None,
) -> Stored:
    """Return documents of one length each: cut, or padded."""
    texts, names = documents.texts, documents.listing.names
    tokenizer = _tokenizer(options, [texts[row] for row in rows["train"]], layout)
    length = layout["length"] if layout else options.length
    encoded = _encoded(tokenizer, texts, names, options)
    tokens = padded(encoded, length, tokenizer)
    sizes = np.array([len(one) for one in encoded])
    kept = np.concatenate([*rows.values()])
    new = {"head": CLASSES, "length": length, "tokenizer": tokenizer.plain(), "target": {"classes": list(classes)}}
    facts = {
        "examples": len(kept),
        "shape": [length],
        "outputs": len(classes),
        "loss": "cross_entropy",
        "vocabulary": tokenizer.size,
        "head": CLASSES,
        "padding": tokenizer.padding,
    }
    counts = {
        "documents": {part: len(rows[part]) for part in PARTS},
        "tokens": {part: int(sizes[rows[part]].sum()) for part in PARTS},
        "cut": int((sizes[kept] > length).sum()),
        "longest": int(sizes[kept].max()),
        "unknown": {part: _unknown([encoded[row] for row in rows[part]], tokenizer) for part in PARTS},
    }
    about = {"layout": layout or new, "facts": facts, "counts": counts}
    about["sizes"] = {part: len(rows[part]) for part in PARTS[1:]}
    return Stored(tokens, {**rows, "starts": np.empty(0, np.int64)}, about)


@dataclass(frozen=True)
class _Division:
    """Texts by their parts.

    Args:
        texts: documents, or stretches of the only one.
        names: of each, for people.
        parts: of each.
        ended: whether the document ends with it.
        sizes: how many documents, or pieces of the only one, are held out for `val` and `test`.
        contiguous: whether the only document was cut.
    """

    texts: list[str]
    names: list[str]
    parts: list[str]
    ended: list[bool]
    sizes: dict[str, int]
    contiguous: bool = False

    def of(self, part: str) -> list[int]:
        """The indices of the texts of a part."""
        return [row for row, own in enumerate(self.parts) if own == part]


def _blocks(
    options: TextOptions, documents: Documents, kept: np.ndarray, nothing: Problem, layout: Layout | None
) -> Stored:
    """Return all tokens, part after part, and the places of the sequences in them."""
    divided = _divided(options, documents, kept, nothing)
    tokenizer = _tokenizer(options, [divided.texts[row] for row in divided.of("train")], layout)
    length = layout["length"] if layout else options.length
    encoded = _encoded(tokenizer, divided.texts, divided.names, options)
    kind, end = smallest_type(tokenizer.size), [] if tokenizer.end is None else [tokenizer.end]
    streams = []
    for part in PARTS:
        pieces = [one for row in divided.of(part) for one in (encoded[row], end if divided.ended[row] else [])]
        streams.append(np.concatenate([*pieces, np.empty(0, np.int64)]).astype(kind))
    tokens, starts, blocks_of_parts = cut_streams(streams, length)
    rows, problems = {}, []
    examples = left = 0
    counts: dict[str, Any] = {"documents": {}, "tokens": {}, "unknown": {}, "contiguous": divided.contiguous}
    ratios = {}
    for part, stream, blocks in zip(PARTS, streams, blocks_of_parts, strict=True):
        own = divided.of(part)
        if not blocks and (part == "train" or own):
            what = {"train": "training", "val": "validation"}.get(part, part)
            message = f"the {what} part has {len(stream):,} tokens, and a sequence needs {length + 1:,}"
            problems.append(Problem("data.length", message, length, "a smaller one, or more text in this part"))
        rows[part] = np.arange(examples, examples + blocks)
        left += max(len(stream) - 1 - blocks * length, 0)
        examples += blocks
        counts["documents"][part], counts["tokens"][part] = len(own), len(stream)
        counts["unknown"][part] = _unknown([encoded[row] for row in own], tokenizer)
        if part != "train" and own:
            written = sum(len(divided.texts[row].encode("utf-8", "replace")) for row in own)
            ratios[part] = float(f"{written / max(len(stream), 1):.6g}")
    if problems:
        raise ConfigError(problems)
    new: Layout = {"head": LANGUAGE_MODEL, "length": length, "tokenizer": tokenizer.plain(), "target": {"classes": []}}
    facts = {
        "examples": examples,
        "shape": [length],
        "outputs": tokenizer.size,
        "loss": "cross_entropy",
        "vocabulary": tokenizer.size,
        "head": LANGUAGE_MODEL,
        "held_out": len(rows["val"]) + len(rows["test"]),
        "bytes_per_token": ratios,
    }
    about = {"layout": layout or new, "facts": facts, "counts": {**counts, "left": left}, "sizes": divided.sizes}
    return Stored(tokens, {**rows, "starts": starts, "targets": np.empty(0, np.int64)}, about)


def _divided(options: TextOptions, documents: Documents, kept: np.ndarray, nothing: Problem) -> _Division:
    """Return the documents by their parts; one that is the only one is cut, and its end is held out."""
    texts = [documents.texts[row] for row in kept]
    names = [documents.listing.names[row] for row in kept]
    labels = [documents.listing.parts[row] for row in kept]
    pool = [row for row, label in enumerate(labels) if not label]
    if len(pool) == 1:
        return _stretches(options, texts, names, labels, pool[0])
    held, count = options.held_out, len(pool) or labels.count("train")
    held = replace(held, **{f"{one}_size": _at_least_one(getattr(held, f"{one}_size"), count) for one in PARTS[1:]})
    rows = rows_of(held, labels, np.arange(len(texts)), np.zeros(len(texts)), "document", nothing)
    parts = {row: part for part in PARTS for row in rows[part].tolist()}
    order = sorted(parts)
    return _Division(
        [texts[row] for row in order],
        [names[row] for row in order],
        [parts[row] for row in order],
        [True] * len(order),
        {part: len(rows[part]) for part in PARTS[1:]},
    )


def _stretches(options: TextOptions, texts: list[str], names: list[str], labels: list[str], row: int) -> _Division:
    """Return the text of a row cut into parts, in steps of `length` characters, and the other texts in their parts."""
    given, held = set(labels), options.held_out
    if held.folds is not None and "val" in given:
        raise ConfigError([Problem("data.folds", "there is a part for validation already", held.folds)])
    held = replace(held, **{f"{part}_size": 0 for part in PARTS[1:] if part in given})
    others = [other for other in range(len(texts)) if other != row]
    found = _Division(
        [texts[other] for other in others],
        [names[other] for other in others],
        [labels[other] for other in others],
        [True] * len(others),
        {},
        contiguous=True,
    )
    text, step = texts[row], options.length
    steps = np.arange(max(len(text) // step, 1))
    parts = held.rows(steps, np.zeros(len(steps)), "pieces", shuffled=False)
    for part, own in parts.items():
        for run in np.split(own, np.flatnonzero(np.diff(own) > 1) + 1) if len(own) else ():
            start = int(run[0]) * step
            stop = len(text) if run[-1] == steps[-1] else (int(run[-1]) + 1) * step
            found.texts.append(text[start:stop])
            found.names.append(f"{names[row]}, from character {start:,}")
            found.parts.append(part)
            found.ended.append(stop == len(text))
        found.sizes[part] = len(own)
    del found.sizes["train"]
    return found


def _at_least_one(size: int | float | str, documents: int) -> int:
    """Return the number of documents of a part, at least one for a share."""
    count = examples_of(size, documents)
    return max(count, 1) if share_of(size) else count


def _unknown(encoded: Sequence[np.ndarray], tokenizer: Tokenizer) -> int:
    if tokenizer.unknown is None:
        return 0
    return sum(int((one == tokenizer.unknown).sum()) for one in encoded)
