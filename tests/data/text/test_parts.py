"""Texts prepared for training: which documents are in which part, how they are packed, and what does not fit."""

from __future__ import annotations

import json
import pickle
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrflow.data.text import cache as text_cache
from lrflow.data.text import parts as text_parts
from lrflow.data.text.options import TextOptions
from lrflow.data.text.parts import prepare
from lrflow.data.text.text import Text
from lrflow.errors import ConfigError

LICENSE = Path(sysconfig.get_paths()["stdlib"]) / "LICENSE.txt"


def options(**given: Any) -> TextOptions:
    return TextOptions.of({"cache": "none", "val_size": "10%", "test_size": "10%", **given})


def texts_of(found: Any, part: str) -> str:
    """The text of a part, from the sequences that are trained on."""
    length, starts = found.layout["length"], found.starts[found.rows[part]]
    tokens = [token for start in starts for token in found.tokens[start : start + length].tolist()]
    return bytes(token for token in tokens if token < 256).decode()


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """20 documents of one letter each, 11 to 30 long."""
    path = tmp_path / "letters.jsonl"
    rows = [
        {"text": letter * (11 + index), "kind": "ab"[index % 2]} for index, letter in enumerate("abcdefghijklmnopqrst")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_documents_are_joined_with_an_end_and_cut_and_each_is_in_one_part(documents: Path) -> None:
    found = prepare(options(file=str(documents), length=8, end_of_text=True, tokenizer="characters"))
    plain = found.layout["tokenizer"]
    stream = found.tokens[: found.counts["tokens"]["train"]].tolist()
    expected: list[int] = []
    letters = {part: set() for part in found.rows}  # type: ignore[var-annotated]
    for part, rows in found.rows.items():
        for start in found.starts[rows]:
            letters[part] |= {*found.tokens[start : start + 8].tolist()}
    for letter in plain["characters"]:  # those of the training part, in the order of the file
        expected += [plain["characters"].index(letter)] * (11 + "abcdefghijklmnopqrst".index(letter))
        expected += [len(plain["characters"]) + 1]  # after the token of unknown characters
    assert stream == expected
    assert len(plain["characters"]) == 16
    assert found.counts["documents"] == {"train": 16, "val": 2, "test": 2}
    unknown = len(plain["characters"])
    assert unknown in letters["val"]
    assert unknown not in letters["train"]
    left = sum((found.counts["tokens"][part] - 1) % 8 for part in found.rows)
    assert found.counts["left"] == left
    assert found.facts["held_out"] == len(found.rows["val"]) + len(found.rows["test"])
    assert found.sizes == {"val": 2, "test": 2}


def test_the_targets_of_a_sequence_are_its_tokens_shifted_by_one(documents: Path) -> None:
    data = Text(file=str(documents), length=8, cache="none")
    data.setup()
    assert data.train_set is not None
    inputs, targets = data.train_set.__getitems__([3, 0])  # type: ignore[attr-defined]
    assert inputs.shape == targets.shape == (2, 8)
    assert inputs[:, 1:].equal(targets[:, :-1])
    following = data.train_set[1][0]
    assert targets[1, -1] == following[0]
    copy = pickle.loads(pickle.dumps(data.train_set))  # as a worker process gets it
    assert copy.__getitems__([3, 0])[1].equal(targets)


def test_the_end_of_a_single_document_is_held_out() -> None:
    text = LICENSE.read_text(encoding="utf-8")
    found = prepare(options(file=str(LICENSE), length=32))
    train, val, test = (texts_of(found, part) for part in ("train", "val", "test"))
    assert text.startswith(train)
    assert 0 <= text.index(val) - len(train) <= 32
    assert 0 <= text.index(test) - text.index(val) - len(val) <= 32
    again = prepare(options(file=str(LICENSE), length=32, val_size=found.sizes["val"], test_size=found.sizes["test"]))
    assert {part: rows.tolist() for part, rows in again.rows.items()} == {
        part: rows.tolist() for part, rows in found.rows.items()
    }
    halves = [prepare(options(file=str(LICENSE), length=32, folds=2, fold=fold)) for fold in range(2)]
    assert {texts_of(one, "test") for one in halves} == {test}
    first, second = (texts_of(one, "val") for one in halves)
    assert text.index(first) + len(first) <= text.index(second)


def test_bytes_per_token_of_a_part_are_those_of_its_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é" * 400)
    found = prepare(options(file=str(tmp_path / "a.txt"), length=4, tokenizer="characters", end_of_text=False))
    assert found.facts["bytes_per_token"] == {"val": 2, "test": 2}


def test_classes_are_padded_or_cut_and_held_out_in_proportion(documents: Path) -> None:
    found = prepare(options(file=str(documents), target="kind", length=20, test_size=4))
    assert found.layout["target"]["classes"] == ["a", "b"]
    assert np.bincount(found.targets[found.rows["test"]]).tolist() == [2, 2]
    assert found.tokens[0].tolist() == [ord("a")] * 11 + [256] * 9
    assert found.tokens[19].tolist() == [ord("t")] * 20
    assert found.counts["cut"] == 10
    assert (found.facts["outputs"], found.facts["padding"], found.facts["vocabulary"]) == (2, 256, 257)


def test_folders_patterns_columns_and_files_name_the_parts(tmp_path: Path, documents: Path) -> None:
    for name in ("one/a.txt", "one/b.txt", "two/c.txt", "two/d.md"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(Path(name).stem * 40)
    (tmp_path / "texts" / "two" / "image.png").touch()
    root = str(tmp_path / "texts")
    found = prepare(options(root=root, val_file="*/c.txt", test_file="two/d.*", length=8))
    assert {part: {*texts_of(found, part)} for part in found.rows} == {"train": {*"ab"}, "val": {"c"}, "test": {"d"}}
    assert found.counts["ignored"] == 1
    classes = prepare(options(root=root, kind="classes", endings=[".txt", ".md"], length=8, bad_files="skip"))
    assert classes.layout["target"]["classes"] == ["one", "two"]
    assert classes.skipped == {"files that are no texts": 1}
    rows = [
        {"text": "x" * 30, "part": "train"},
        {"text": "y" * 30, "part": "test"},
        {"text": "z" * 30, "part": "valid"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = prepare(options(file=str(tmp_path / "rows.jsonl"), split="part", length=8))
    assert {part: {*texts_of(found, part)} for part in found.rows} == {"train": {"x"}, "val": {"z"}, "test": {"y"}}
    found = prepare(options(file=str(documents), val_file=str(tmp_path / "rows.jsonl"), length=8, test_size=0))
    assert {*texts_of(found, "val")} >= {*"xyz"}
    assert not len(found.rows["test"])


def test_lines_and_paragraphs_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n \nthree\nfour\n\n\nfive\n")
    counts = {
        kind: sum(
            prepare(options(file=str(path), documents=kind, length=1, val_size=1, test_size=1))
            .counts["documents"]
            .values()
        )
        for kind in ("lines", "paragraphs")
    }
    assert counts == {"lines": 5, "paragraphs": 3}


LINES = rb"""{"text": "a", "y": 1}
{oops
{"txt": "b", "y": 2}
[1]
{"text": 3, "y": 1}
{"text": "", "y": 1}
"""

BAD: dict[str, tuple[bytes, dict[str, Any], list[str]]] = {
    "not utf-8": (b"fine\ncaf\xe9\n", {}, ["line 2: byte 0xe9 is not utf-8"]),
    "empty": (b" \n", {}, ["bad.txt': is empty"]),
    "an empty class": (b'{"text": "a", "y": ""}', {"target": "y"}, ["line 1: has no value under the key y"]),
    "a plain text beside keys": (
        b'{"text": "a", "y": 1}',
        {"target": "y", "val_file": "v.txt"},
        ["is a plain text; exp"],
    ),
    "a huge vocabulary": (b"text", {"tokenizer": "bpe", "vocabulary": 10**12}, ["from 257 to 1048576"]),
    "too short": (b"hello", {}, ["the training part has 6 tokens, and a sequence needs 257"]),
    "an unknown character": (
        b"abab" * 300 + "ü".encode() * 9,
        {"tokenizer": "characters", "unknown": False, "length": 8},
        ["the training part has no 'ü' (U+00FC)", "data.unknown=true"],
    ),
    "lines of JSON": (
        LINES + b'{"text": "\xff"}',
        {"target": "y", "bad_files": "error"},
        [
            "line 2: is no JSON",
            "line 3: has no value under the key text, did you mean txt?",
            "line 4: expected an object, found list",
            "line 5: expected text under the key text, found int",
            "line 6: is empty",
            "and 1 more",
            "data.bad_files=skip",
        ],
    ),
    "a key that no line has": (
        b'{"text": "a", "label": 1}\n',
        {"target": "labl"},
        ["no line of", "did you mean label?"],
    ),
    "one class": (
        b'{"text": "a", "y": 1}\n{"text": "b", "y": 1}\n',
        {"target": "y"},
        ["expected at least two classes, found 1"],
    ),
    "a part without a name": (
        b'{"text": "a", "p": "x"}\n{"text": "b", "p": "train"}',
        {"split": "p"},
        ["line 1: expected train, val or test under p, found x"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_texts_are_told_with_their_lines(name: str, tmp_path: Path) -> None:
    content, given, messages = BAD[name]
    path = tmp_path / ("bad.jsonl" if content.startswith(b"{") else "bad.txt")
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        prepare(options(file=str(path), **given))
    found = " ".join(str(caught.value).split())
    assert [message for message in messages if message not in found] == []


def test_documents_that_do_not_fit_are_left_out_and_counted(tmp_path: Path, documents: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(documents.read_text() + "{oops\n[1]\n[2]\n")
    found = prepare(options(file=str(tmp_path / "bad.jsonl"), bad_files="skip", length=8))
    assert found.skipped == {"lines that are no JSON": 1, "lines that are no objects": 2}
    assert found.tokens.tolist() == prepare(options(file=str(documents), length=8)).tokens.tolist()


def test_many_tokens_lie_in_a_file_until_the_texts_change(
    tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_cache, "_SMALL", 10)
    given = {"file": str(documents), "length": 8, "cache": str(tmp_path / "cache")}
    memory, first = prepare(options(**{**given, "cache": "none"})), prepare(options(**given))
    assert isinstance(first.tokens, np.memmap)
    monkeypatch.setattr("lrflow.data.text.parts._made", None)  # the texts are not read again
    text_parts._last.clear()
    again = prepare(options(**given))
    text_parts._last.clear()
    settled = prepare(options(**given, **{f"{part}_size": size for part, size in first.sizes.items()}))
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    for one in (first, again, settled):
        assert one.tokens.tolist() == memory.tokens.tolist()
        assert one.facts == memory.facts
        assert {part: rows.tolist() for part, rows in one.rows.items()} == {
            part: rows.tolist() for part, rows in memory.rows.items()
        }
    documents.write_text(documents.read_text() * 2)
    with pytest.raises(TypeError):  # now they would be
        prepare(options(**given))
