"""Tokenizers: text to numbers and back, by bytes, characters, or a tokenizer of the library `tokenizers`; no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.files import did_you_mean_path, expanded, is_file, is_folder

KINDS = ("bytes", "characters", "bpe")
"""Tokenizers that need no file."""

FILE = "tokenizer.json"
"""The file of a tokenizer of the library `tokenizers`, also within the folder of a pretrained model."""

_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]", "<|eos|>")
_PADS = ("[PAD]", "<pad>", "<|padding|>", "<|pad|>", "<|finetune_right_pad_id|>")
_UNKNOWN = ("[UNK]", "<unk>")

_BATCH = 1000
"""Texts that the library encodes at once."""


class UnknownCharacterError(Exception):
    """Raised if a text has a character that the vocabulary lacks.

    Args:
        text: index of the text.
        line: of the character in it, from 1.
        character: the character.
    """

    def __init__(self, text: int, line: int, character: str) -> None:
        self.text, self.line, self.character = text, line, character
        super().__init__(f"line {line}: the training part has no {character!r} (U+{ord(character):04X})")


class Tokenizer(Protocol):
    """A vocabulary and the way in which a text becomes a sequence of its numbers.

    Args:
        size: number of different tokens, special ones included.
        end: token after each document; None: there is none.
        unknown: token of what the vocabulary lacks; None: there is none.
        padding: token after the end of a short sequence; None: there is none.
        closing: token at the end of every sequence, also of one that is cut; None: there is none.
    """

    closing: int | None
    size: int
    end: int | None
    unknown: int | None
    padding: int | None

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the tokens of each text, without special ones.

        Raises:
            UnknownCharacterError: the vocabulary lacks a character, and there is no token for that.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special ones have none."""

    def plain(self) -> dict[str, Any]:
        """Return the tokenizer as plain data, from which `restored` makes it again."""

    def describe(self) -> str:
        """Return what the tokenizer is, in a few words."""


class Bytes:
    """Each byte of the text in UTF-8 is a token.

    Args:
        end: whether there is a token after each document.
        padding: whether there is a token of padding.
    """

    closing: int | None = None

    def __init__(self, end: bool = True, padding: bool = False) -> None:
        self.unknown: int | None = None
        self.size, self.end, self.padding = _with_special(256, end, padding)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the bytes of each text, uint8."""
        return [np.frombuffer(text.encode("utf-8", "replace"), np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of the bytes; those that are no UTF-8 become the sign for that."""
        return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")

    def plain(self) -> dict[str, Any]:
        """Return the special tokens."""
        return {"kind": "bytes", **_special(self)}

    def describe(self) -> str:
        """Return what the tokens are."""
        return "bytes"


class Characters:
    """Each character is a token; the vocabulary is in the order of Unicode.

    Args:
        characters: the vocabulary.
        end: whether there is a token after each document.
        unknown: whether there is a token for characters that the vocabulary lacks.
        padding: whether there is a token of padding.
    """

    closing: int | None = None

    def __init__(self, characters: str, end: bool = True, unknown: bool = True, padding: bool = False) -> None:
        self.characters = characters
        self.unknown = len(characters) if unknown else None
        self.size, self.end, self.padding = _with_special(len(characters) + unknown, end, padding)
        self._table = np.full(max(map(ord, characters), default=0) + 2, -1 if self.unknown is None else self.unknown)
        self._table[[ord(character) for character in characters]] = np.arange(len(characters))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the tokens of each text.

        Raises:
            UnknownCharacterError: see `Tokenizer`.
        """
        found = []
        for index, text in enumerate(texts):
            points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
            tokens = self._table[np.minimum(points, len(self._table) - 1)]
            if self.unknown is None and (tokens < 0).any():
                place = int(np.argmax(tokens < 0))
                raise UnknownCharacterError(index, text.count("\n", 0, place) + 1, text[place])
            found.append(tokens)
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text; an unknown character becomes the sign for that."""
        return "".join("\ufffd" if token == self.unknown else self.characters[token : token + 1] for token in tokens)

    def plain(self) -> dict[str, Any]:
        """Return the vocabulary and the special tokens."""
        return {"kind": "characters", "characters": self.characters, **_special(self)}

    def describe(self) -> str:
        """Return how many characters there are."""
        return f"{len(self.characters):,} characters"


class Pretrained:
    """A tokenizer of the library `tokenizers`.

    Special tokens of common names are found in its vocabulary; one that is needed and lacks is added after it.

    Args:
        content: of its `tokenizer.json`.
        end: whether there is a token after each document.
        padding: whether there is a token of padding.

    Raises:
        ValueError: the library cannot read it.
    """

    def __init__(self, content: str, end: bool = True, padding: bool = False) -> None:
        # A process that forks after threads have encoded would hang or warn as soon as it encodes itself.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import tokenizers

        self.content = content
        try:
            self._own = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises plain exceptions
            raise ValueError(str(error)) from error
        self._own.no_padding()
        self._own.no_truncation()
        vocabulary = self._own.get_vocab(with_added_tokens=True)
        self._known = max(vocabulary.values(), default=-1) + 1
        self.unknown = next((vocabulary[name] for name in _UNKNOWN if name in vocabulary), None)
        self.end = next((vocabulary[name] for name in _ENDS if name in vocabulary), None) if end else None
        self.padding = next((vocabulary[name] for name in _PADS if name in vocabulary), None) if padding else None
        plain, special = (self._own.encode("a", add_special_tokens=one).ids for one in (False, True))
        self.closing: int | None = special[-1] if padding and plain and special[-1] != plain[-1] else None
        self.size = self._known
        if end and self.end is None:
            self.end, self.size = self.size, self.size + 1
        if padding and self.padding is None:
            self.padding, self.size = self.size, self.size + 1

    def encode(self, texts: Sequence[Any], longest: int | None = None) -> list[np.ndarray]:
        """Return the tokens of each text, uint32; where there is padding, with those that begin and end a sequence.

        Args:
            texts: texts, or pairs of them.
            longest: most tokens of a text, those that begin and end it included; None: any number.
        """
        found = []
        self._own.no_truncation() if longest is None else self._own.enable_truncation(longest)
        for start in range(0, len(texts), _BATCH):
            batch = self._own.encode_batch_fast(
                list(texts[start : start + _BATCH]), add_special_tokens=self.padding is not None
            )
            found += [np.array(one.ids, np.uint32) for one in batch]
        return found

    def separator(self) -> int | None:
        """Return the token at the end of the first text of a pair; None: the second has no token type of its own."""
        pair = self._own.encode("a", "b")
        return pair.ids[pair.type_ids.index(1) - 1] if 1 in pair.type_ids else None

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text without special tokens."""
        text: str = self._own.decode([token for token in tokens if token < self._known])
        return text

    def plain(self) -> dict[str, Any]:
        """Return the content of the file and the special tokens."""
        return {"kind": "json", "content": self.content, **_special(self)}

    def describe(self) -> str:
        """Return the kind of its model."""
        return f"{type(self._own.model).__name__} of {self._known:,} tokens"


def trained_bpe(texts: Iterable[str], size: int, end: bool, padding: bool) -> Pretrained:
    """Train a byte-pair encoding on texts, from the bytes up, so that no text is unknown to it (Sennrich et al., 2016).

    Args:
        texts: to train on.
        size: number of tokens, at least 257.
        end: whether there is a token after each document.
        padding: whether there is a token of padding.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    own = tokenizers.Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    special = [*([_ENDS[0]] if end else []), *([_PADS[2]] if padding else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    own.train_from_iterator(texts, trainer)
    return Pretrained(own.to_str(), end, padding)


def read_pretrained(given: str, end: bool, padding: bool, key: str = "data.tokenizer") -> Pretrained:
    """Read a `tokenizer.json`, or the one in a folder.

    Raises:
        ConfigError: there is none, or the library cannot read it.
    """
    path = expanded(given)
    path = path / FILE if is_folder(path) else path
    if not is_file(path):
        near = did_you_mean(given, KINDS) if not path.suffix and "/" not in given else did_you_mean_path(path)
        message = f"expected one of {', '.join(KINDS)}, or a {FILE} or a folder with one; there is no such file"
        raise ConfigError([Problem(key, message, given, near)])
    try:
        return Pretrained(path.read_text(encoding="utf-8"), end, padding)
    except OSError as error:
        raise ConfigError([Problem(key, f"cannot be read: {error.strerror or error}", str(path))]) from None
    except ValueError as error:
        first = str(error).partition("\n")[0]
        raise ConfigError([Problem(key, f"is no file of the library tokenizers: {first}", str(path))]) from None


def smallest_type(size: int) -> Any:
    """Return the smallest type of numbers for a vocabulary of `size` tokens."""
    return np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.uint32


def padded(encoded: Sequence[np.ndarray], length: int, tokenizer: Tokenizer) -> np.ndarray:
    """Return texts as rows of one length [texts, length]: longer ones are cut, shorter ones padded."""
    tokens = np.full((len(encoded), length), tokenizer.padding or 0, smallest_type(tokenizer.size))
    for row, one in enumerate(encoded):
        tokens[row, : len(one)] = one[:length]
        if len(one) > length and tokenizer.closing is not None:
            tokens[row, -1] = tokenizer.closing
    return tokens


def cut_streams(streams: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return streams of tokens one after another, as sequences of which each needs one token more for its targets.

    Returns:
        The tokens of all streams; the place of each sequence in them, int64; the number of sequences of each stream.
    """
    counts = [max(len(stream) - 1, 0) // length for stream in streams]
    places = np.cumsum([0, *map(len, streams)])
    starts = [place + np.arange(count) * length for place, count in zip(places, counts, strict=False)]
    return np.concatenate(streams), np.concatenate(starts), counts


def windows_of_texts(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> np.ndarray:
    """Return texts as windows by which a language model computes the loss of each.

    Returns:
        [windows, 2 + length + 1], int64: number of the text, bytes of it, and the tokens of an input and its last
        target. Each text has as many windows as it fills; tokens that are absent are negative.

    Raises:
        UnknownCharacterError: see `Tokenizer`.
    """
    ends = [] if tokenizer.end is None else [tokenizer.end]
    rows = []
    for place, (text, tokens) in enumerate(zip(texts, tokenizer.encode(texts), strict=True)):
        whole = np.concatenate([ends, tokens, ends]).astype(np.int64)
        for start in range(0, max(len(whole) - 1, 1), length):
            row = np.full(2 + length + 1, -1, np.int64)
            piece = whole[start : start + length + 1]
            row[:2], row[2 : 2 + len(piece)] = (place, len(text.encode("utf-8", "replace"))), piece
            rows.append(row)
    return np.stack(rows) if rows else np.empty((0, 2 + length + 1), np.int64)


def restored(plain: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that `Tokenizer.plain` described."""
    end, padding = plain["end"], plain["padding"]
    if plain["kind"] == "bytes":
        return Bytes(end, padding)
    if plain["kind"] == "characters":
        return Characters(plain["characters"], end, plain["unknown"], padding)
    return Pretrained(plain["content"], end, padding)


def _special(tokenizer: Tokenizer) -> dict[str, bool]:
    return {name: getattr(tokenizer, name) is not None for name in ("end", "unknown", "padding")}


def _with_special(size: int, end: bool, padding: bool) -> tuple[int, int | None, int | None]:
    """Return the number of tokens with the special ones after the others, and their numbers."""
    return size + end + padding, size if end else None, size + end if padding else None
