"""`data=huggingface`: splits, columns and targets that are found, those that are wrong, and what a batch holds."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrflow.errors import ConfigError

datasets = pytest.importorskip("datasets", reason="needs the extra datasets: pip install 'lrflow[datasets]'")

from lrflow.data import HuggingFace  # noqa: E402


@pytest.fixture(autouse=True)
def _cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def saved(rows: dict[str, list[Any]], name: str = "rows", **features: Any) -> str:
    """A data set on the disk."""
    own = datasets.Dataset.from_dict(rows)
    for column, feature in features.items():
        own = own.cast_column(column, feature)
    own.save_to_disk(name)
    return name


def made(name: str, **options: Any) -> HuggingFace:
    module = HuggingFace(name, **{"val_size": 0, "test_size": 0, "batch_size": 2, **options})
    module.setup()
    return module


NUMBERS = {"x": [float(row) for row in range(12)], "z": [[row, 2 * row] for row in range(12)]}


def test_targets_are_classes_or_numbers_by_their_values() -> None:
    few, many = [row % 3 * 10 for row in range(12)], [row / 8 for row in range(12)]
    texts = [("no", "yes")[row % 2] for row in range(12)]
    for values, classes in (
        (few, ("0", "10", "20")),
        (texts, ("no", "yes")),
        (many, ()),
        ([True, False] * 6, ("False", "True")),
    ):
        module = made(saved({**NUMBERS, "label": values}, f"{len(str(values))}"), inputs="x")
        assert module.class_names == classes
        assert module.train_set is not None
        targets = module.train_set.targets.tolist()  # type: ignore[attr-defined]
        assert targets == (values if not classes else [classes.index(str(value)) for value in values])
    module = made(saved({**NUMBERS, "label": few}, "again"), inputs="x", kind="regression")
    assert module._prepared.facts["units"] == pytest.approx([np.mean(few), np.std(few)])  # type: ignore[union-attr]


def test_a_class_without_examples_stays_a_class_and_one_that_is_only_held_out_is_an_error() -> None:
    names = datasets.ClassLabel(names=["a", "none", "b"])
    name = saved({"x": [1.0] * 12, "label": [0, 2] * 6}, label=names)
    assert made(name, inputs="x").class_names == ("a", "none", "b")
    name = saved({"x": [1.0] * 3, "label": [0, 0, 2]}, "few", label=names)
    with pytest.raises(ConfigError, match=r"data\.val_size = 2: no example of b is left to train on"):
        made(name, inputs="x", val_size=2)


def test_numbers_are_passed_as_they_are() -> None:
    name = saved({**NUMBERS, "label": [row % 2 for row in range(12)]})
    for columns, expected in ((["x"], [[3.0]]), ("z", [[3.0, 6.0]])):
        module = made(name, inputs=columns)
        assert module.train_set is not None
        found = module.train_set.__getitems__([3])[0]  # type: ignore[attr-defined]
        assert (found.dtype, found.tolist()) == (torch.float32, expected)


def test_splits_are_the_parts_and_what_is_missing_is_held_out() -> None:
    def rows(start: int, stop: int, label: Any = None) -> Any:
        labels = [row % 2 if label is None else label for row in range(start, stop)]
        classes = datasets.ClassLabel(names=["a", "b"])
        return datasets.Dataset.from_dict(
            {"x": [float(row) for row in range(start, stop)], "label": labels}
        ).cast_column("label", classes)

    sets = {"train": rows(0, 20), "validation_matched": rows(20, 30), "test": rows(30, 40, -1), "other": rows(40, 50)}
    datasets.DatasetDict(sets).save_to_disk("whole")
    module = made("whole", val_size="25%", test_size=2)
    assert [len(part) for part in (module.train_set, module.val_set, module.test_set)] == [13, 5, 2]  # type: ignore[arg-type]
    notes = module._prepared.notes  # type: ignore[union-attr]
    assert "not used: the splits validation_matched, other" in notes
    assert "not used: the split for test, in which label is missing" in notes
    module = made("whole", splits={"val": "validation_matched", "test": "other"})
    found = [
        [int(row) for row in part.inputs._source[part.inputs.rows]["x"]]
        for part in (module.train_set, module.val_set, module.test_set)
    ]  # type: ignore[union-attr]
    assert found == [[*range(20)], [*range(20, 30)], [*range(40, 50)]]


def test_files_of_any_kind_and_folders_of_them_are_read(tmp_path: Path) -> None:
    lines = [{"text": f"word {row}", "x": row / 7, "label": ("a", "b")[row % 2]} for row in range(8)]
    (tmp_path / "data").mkdir()
    own = datasets.Dataset.from_list(lines)
    own.to_parquet("rows.parquet")
    own.to_csv("rows.csv")
    (tmp_path / "data/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "data/test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
    for name, test in (("rows.parquet", 0), ("rows.csv", 0), ("data", 4)):
        module = made(name, inputs="x")
        assert [len(module.train_set), len(module.test_set)] == [8, test]  # type: ignore[arg-type]
        assert module.class_names == ("a", "b")


@pytest.fixture
def words(tmp_path: Path) -> str:
    """The folder of a tokenizer whose tokens are words, with BERT's special ones: `w0` has the number 4."""
    import tokenizers
    from tokenizers import processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(20))]
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({name: place for place, name in enumerate(names)}, "[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    (tmp_path / "words").mkdir()
    own.save(str(tmp_path / "words/tokenizer.json"))
    return "./words"


def test_a_language_model_learns_the_next_tokens_and_reads_new_texts(words: str, tmp_path: Path) -> None:
    rows = [" ".join(f"w{number}" for number in range(count)) for count in (5, 3, 6, 2)]
    module = made(saved({"text": rows}), tokenizer=words, length=4)
    stream = [token for row in rows for token in (*(4 + int(word[1:]) for word in row.split()), 3)]
    assert module.train_set is not None
    inputs, targets = module.train_set.__getitems__([0, 1, 3])  # type: ignore[attr-defined]
    assert inputs.tolist() == [stream[start : start + 4] for start in (0, 4, 12)]
    assert targets.tolist() == [stream[start + 1 : start + 5] for start in (0, 4, 12)]
    assert len(module.train_set) == (len(stream) - 1) // 4
    assert (module.tokens_per_example, module.example_inputs().shape) == (4, (2, 4))  # type: ignore[union-attr]
    (tmp_path / "new.txt").write_text("w1 w2\nw3 w4 w5 w6 w7\n")
    found = module.read(tmp_path / "new.txt", "task.inputs")  # number of the text, bytes, tokens
    assert found.tolist() == [[0, 5, 3, 5, 6, 3, -1], [1, 14, 3, 7, 8, 9, 10], [1, 14, 10, 11, 3, -1, -1]]


def test_pairs_have_a_separator_and_no_single_texts_are_read_for_them(words: str) -> None:
    rows = {"text": ["w0 w1", "w2"], "other": ["w3", "w4 w5"], "label": [0, 1]}
    module = made(saved(rows), tokenizer=words, text=["text", "other"])
    assert module.train_set is not None
    spawned = pickle.loads(pickle.dumps(module.train_set))  # as a worker gets it
    (inputs, targets) = spawned.__getitems__([0, 1])
    assert (inputs.tolist(), targets.tolist()) == ([[2, 4, 5, 3, 7, 3], [2, 6, 3, 8, 9, 3]], [0, 1])
    assert module._prepared.facts["separator"] == 3  # type: ignore[union-attr]
    assert ".txt" not in module.file_types
    module = made(saved(rows, "one"), tokenizer=words, text="text")
    assert module._prepared.facts["separator"] is None  # type: ignore[union-attr]
    assert ".txt" in module.file_types


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name_or_path": "./row"}, r"= './row': there is no such folder or file\n +did you mean rows\?"),
        ({"name_or_path": "broken.json"}, r"data\.name_or_path = 'broken\.json': cannot be read: "),
        ({"name_or_path": "notes.doc"}, r"expected a file of \.csv, \.json, \.jsonl, \.parquet, or a folder"),
        ({"text": "texts"}, r"data\.text = 'texts': there is no such column\n +did you mean text\?"),
        ({"text": "x"}, r"data\.text = 'x': the column holds float64, no text\n +columns of text: "),
        ({"inputs": "x", "target": "lable"}, r"data\.target = 'lable'(?s:.*)did you mean label\?"),
        ({"inputs": "x", "target": "holes"}, r"data\.target = 'holes': 1 of the examples has none: row 3"),
        ({"inputs": "x", "target": "one"}, r"data\.target = 'one': expected at least two classes, found 1: same"),
        ({"inputs": "x", "target": "text", "kind": "regression"}, r"holds texts, and a regression needs numbers"),
        ({"inputs": "x", "text": "text"}, r"data\.inputs = 'x': is given beside data\.text, and a model has one input"),
        ({"text": "text"}, r"data\.tokenizer = None: texts need a tokenizer"),
        ({"splits": {"val": "vla"}}, r"data\.splits\.val = 'vla': there is no such split"),
        ({"splits": {"valid": "x"}}, r"data\.splits = 'valid': expected keys of train, val, test"),
        ({"inputs": "ragged"}, r"data\.inputs = 'ragged': its rows have different lengths, such as 1 and 2"),
        ({"inputs": "gap"}, r"data\.inputs = 'gap': 2 of its numbers are NaN or infinite"),
        ({"inputs": "label", "target": "label"}, r"data\.inputs = 'label': is the column of the target"),
        ({"inputs": "x", "kind": "language_model"}, r"data\.kind = 'language_model': needs a column of texts"),
        ({"name_or_path": "empty.jsonl"}, r"data\.name_or_path = 'empty\.jsonl': cannot be read: it holds no data"),
        ({"name_or_path": "~nobody-there/x"}, r"= '~nobody-there/x': there is no such folder or file"),
        ({"kind": "classes"}, r"data\.kind"),
        (
            {"name_or_path": 5, "text": 5, "image": ["a"], "inputs": [5], "target": 5, "size": [1], "tokenizer": 5},
            r"(?s)name_or_path = 5.*text = 5.*image = \['a'\].*inputs = \[5\].*target = 5.*tokenizer = 5.*size = \[1\]",
        ),
        ({"splits": {"train": 5}}, r"data\.splits\.train = 5: expected text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    holes = [None if row == 3 else "ab"[row % 2] for row in range(12)]
    labels = {"label": [row % 2 for row in range(12)], "holes": holes, "one": ["same"] * 12}
    ragged = [[1.0] * (1 + row % 2) for row in range(12)]
    saved({**NUMBERS, **labels, "text": [f"word {row}" for row in range(12)], "ragged": ragged,
           "gap": [[math.nan if row in (2, 7) else 1.0] for row in range(12)]})  # fmt: skip
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.json").write_text("{broken")
    (tmp_path / "notes.doc").touch()
    with pytest.raises(ConfigError, match=said):
        made(**{"name": options.pop("name_or_path", "rows"), **options})
