"""Tokenizers: what they encode is decoded again, special tokens have numbers of their own, and all is restored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrflow.data.text.tokenization import (
    Bytes,
    Characters,
    Pretrained,
    UnknownCharacterError,
    padded,
    read_pretrained,
    restored,
    trained_bpe,
)
from lrflow.errors import ConfigError

TEXT = "Größe: 日本 😀\n\ttab, and an end."


def word_level() -> str:
    """A tokenizer.json of words, with an unknown, an end and a padding token in its middle."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {"to": 0, "[UNK]": 1, "be": 2, "</s>": 3, "[PAD]": 4, "or": 5}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return str(own.to_str())


def all_of_them() -> list[Any]:
    pytest.importorskip("tokenizers")
    return [
        Bytes(True, True),
        Characters("".join(sorted(set(TEXT))), True, True, True),
        trained_bpe([TEXT] * 3, 300, True, True),
    ]


def test_what_is_encoded_is_decoded_again_also_by_a_restored_tokenizer() -> None:
    for one in all_of_them():
        again = restored(json.loads(json.dumps(one.plain())))
        (tokens,) = one.encode([TEXT])
        assert np.array_equal(again.encode([TEXT])[0], tokens)
        special = {one.end, one.padding}
        assert len(special) == 2
        assert not special & {*tokens.tolist()}
        assert max(*tokens.tolist(), *special) < one.size == again.size
        assert (again.end, again.unknown, again.padding) == (one.end, one.unknown, one.padding)
        assert again.decode([*tokens.tolist(), one.end]) == TEXT


def test_bytes_are_those_of_utf_8() -> None:
    assert Bytes().encode([TEXT])[0].tobytes() == TEXT.encode()
    assert Bytes().decode(list("é".encode())[:1]) == "\ufffd"


def test_a_character_that_is_not_known_has_a_token_or_is_named_with_its_line() -> None:
    one = Characters("ab\n", end=False)
    tokens = one.encode(["b?a"])[0].tolist()
    assert (tokens, one.decode(tokens)) == ([1, 3, 0], "b\ufffda")
    with pytest.raises(UnknownCharacterError, match=r"line 3: the training part has no 'é' \(U\+00E9\)") as caught:
        Characters("ab\n", unknown=False).encode(["ab", "a\nb\naé"])
    assert caught.value.text == 1


def test_special_tokens_of_a_pretrained_tokenizer_are_found_or_added(tmp_path: Path) -> None:
    found = Pretrained(word_level(), padding=True)
    assert (found.size, found.unknown, found.end, found.padding) == (6, 1, 3, 4)
    (tmp_path / "tokenizer.json").write_text(word_level().replace('"</s>"', '"s"').replace('"[PAD]"', '"p"'))
    found = read_pretrained(str(tmp_path), end=True, padding=True)
    assert (found.size, found.end, found.padding) == (8, 6, 7)
    assert found.encode(["to be or not"])[0].tolist() == [0, 2, 5, 1]
    (tmp_path / "broken.json").write_text("{}")
    for name, message in (("broken.json", "is no file of the library"), ("byte", "did you mean bytes")):
        with pytest.raises(ConfigError, match=message):
            read_pretrained(str(tmp_path / name) if "." in name else name, True, True)


def test_a_text_that_is_cut_ends_as_every_other_one() -> None:
    processors = pytest.importorskip("tokenizers").processors
    own = json.loads(word_level())
    plain = Pretrained(json.dumps(own), padding=True)
    assert padded(plain.encode(["to be or be", "to"]), 3, plain).tolist() == [[0, 2, 5], [0, 4, 4]]
    own["post_processor"] = json.loads(
        processors.TemplateProcessing("[UNK] $A </s>", special_tokens=[("[UNK]", 1), ("</s>", 3)]).__getstate__()
    )
    closed = Pretrained(json.dumps(own), padding=True)
    assert padded(closed.encode(["to be or be", "to"]), 4, closed).tolist() == [[1, 0, 2, 3], [1, 0, 3, 4]]


def test_a_byte_pair_encoding_merges_the_most_frequent_pairs_first_and_always_the_same() -> None:
    pytest.importorskip("tokenizers")
    texts = ["abab abab cd"] * 9
    first, second = (trained_bpe(texts, 259, True, False) for _ in range(2))
    assert first.content == second.content
    (tokens,) = first.encode(["ab"])  # 256 bytes, the end, and two merges: the first is of a and b
    assert len(tokens) == 1
    assert len(first.encode(["cd"])[0]) == 2
