"""Tables prepared for training: mistakes of rows, targets, parts and facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrflow.data.table.parts import PARTS, PreparedTable, TableOptions, prepare
from lrflow.errors import ConfigError

CLASSES = ["x,c,y", *(f"{row},{'uv'[row % 2]},{'abc'[row % 3]}" for row in range(60))]
NUMBERS = ["x,c,y", *(f"{row},{'uv'[row % 2]},{row / 7}" for row in range(60))]


def prepared(tmp_path: Path, lines: list[str], **options: Any) -> PreparedTable:
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    return prepare(TableOptions.of({"file": str(tmp_path / "x.csv"), "target": "y", **options}))


def problems(tmp_path: Path, lines: list[str], **options: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        prepared(tmp_path, lines, **options)
    return {one.key: f"{one.message} {one.hint}" for one in raised.value.problems}


def test_facts_of_each_kind_of_target(tmp_path: Path) -> None:
    found = prepared(tmp_path, CLASSES, val_size=6, test_size=0.1).facts
    assert found == {"examples": 60, "shape": [2], "outputs": 3, "loss": "cross_entropy", "cardinalities": [3],
                     "units": None}  # fmt: skip
    table = prepared(tmp_path, NUMBERS, val_size="10%", test_size=6, categories="one_hot")
    own = table.targets[table.rows["train"]]
    assert table.facts["units"] == [pytest.approx(own.mean()), pytest.approx(own.std())]
    assert (table.facts["shape"], table.facts["cardinalities"], table.facts["loss"]) == ([4], [], "mse")
    zeros = ["x,y", *(f"{row},{row % 2}" for row in range(40))]
    assert prepared(tmp_path, zeros).layout["target"]["kind"] == "binary"
    assert prepared(tmp_path, zeros).layout["target"]["classes"] == ["0", "1"]
    assert prepared(tmp_path, zeros, kind="regression").facts["outputs"] == 1
    many = ["x,y", *(f"{row},{row % 25}" for row in range(100))]
    assert prepared(tmp_path, many).facts["loss"] == "mse"
    assert prepared(tmp_path, many, kind="multiclass").layout["target"]["classes"][9:12] == ["9", "10", "11"]


def test_parts_hold_the_classes_in_proportion_and_depend_on_the_seed(tmp_path: Path) -> None:
    table = prepared(tmp_path, CLASSES, val_size=12, test_size=9)
    assert sorted(np.concatenate(list(table.rows.values()))) == list(range(60))
    for part, count in (("val", 4), ("test", 3)):
        assert np.bincount(table.targets[table.rows[part]]).tolist() == [count] * 3
    more = prepared(tmp_path, CLASSES, val_size=18, test_size=9)
    assert set(more.rows["test"]) == set(table.rows["test"])
    other = prepared(tmp_path, CLASSES, val_size=12, test_size=9, split_seed=1)
    assert set(other.rows["test"]) != set(table.rows["test"])


def test_folds_divide_the_rows_that_are_not_for_the_test(tmp_path: Path) -> None:
    folds = [prepared(tmp_path, CLASSES, test_size=12, folds=4, fold=fold).rows for fold in range(4)]
    assert len({tuple(rows["test"]) for rows in folds}) == 1
    validated = np.concatenate([rows["val"] for rows in folds])
    assert sorted([*validated, *folds[0]["test"]]) == list(range(60))
    for rows in folds:
        assert sorted([*rows["train"], *rows["val"], *rows["test"]]) == list(range(60))
        assert np.bincount(rows["val"] % 3).tolist() == [4, 4, 4]
    first = prepared(tmp_path, CLASSES, test_size=12, folds=4).layout["columns"][0]["mean"]
    assert first == pytest.approx(folds[0]["train"].mean())
    assert "from 0 to 3" in problems(tmp_path, CLASSES, folds=4, fold=4)["data.fold"]
    assert "only 48 rows" in problems(tmp_path, CLASSES, test_size=12, folds=60)["data.folds"]


def test_parts_come_from_a_column_or_from_files_of_their_own(tmp_path: Path) -> None:
    names = ["train", "Test", "validation", "train"]
    lines = [f"{CLASSES[0]},part", *(f"{line},{names[row % 4]}" for row, line in enumerate(CLASSES[1:]))]
    table = prepared(tmp_path, lines, split="part")
    assert {part: rows[:2].tolist() for part, rows in table.rows.items()} == {
        "train": [0, 3], "test": [1, 5], "val": [2, 6]
    }  # fmt: skip
    assert [one["name"] for one in table.layout["columns"]] == ["x", "c"]
    (tmp_path / "test.csv").write_text("y,extra,c,x\na,1,w,1000\nb,1,u,\n")
    table = prepared(tmp_path, CLASSES, test_file=str(tmp_path / "test.csv"), val_size=6)
    assert {part: len(rows) for part, rows in table.rows.items()} == {"train": 54, "val": 6, "test": 2}
    assert table.targets[table.rows["test"]].tolist() == [0, 1]
    np.testing.assert_equal(table.inputs[table.rows["test"]], [[1000, 0], [np.nan, 1]])
    assert table.layout["columns"][0]["mean"] == pytest.approx(table.inputs[table.rows["train"], 0].mean())
    wrong = [line.replace("Test", "tset") for line in lines]
    assert "found tset" in problems(tmp_path, wrong, split="part")["data.split"]
    (tmp_path / "test.csv").write_text("y,cc,x\na,w,1\n")
    found = problems(tmp_path, CLASSES, test_file=str(tmp_path / "test.csv"))
    assert found == {"data.test_file": "lacks the column c c: did you mean cc?"}


WRONG: dict[str, tuple[list[str], dict[str, Any], str, str]] = {
    "a text among numbers": (
        [*CLASSES[:17], "old,u,a", *CLASSES[17:]],
        {},
        "data.file",
        "line 18: 'old' in the column x",
    ),
    "no target": ([*CLASSES, "1,u,"], {}, "data.file", "line 62: no value in the target y"),
    "a class with one row": ([*CLASSES, "1,u,d"], {}, "data.file", "line 62: the only row of the class 'd'"),
    "a text among targets": ([*NUMBERS, "1,u,cheap"], {}, "data.file", "'cheap' is no number"),
    "one class": (["x,y", "1,a", "2,a"], {}, "data.target", "expected at least two classes, found 1: a"),
    "three classes": (CLASSES, {"kind": "binary"}, "data.target", "expected two classes, found 3: a, b, c"),
    "names": (["x,y", *(f"{row},name {row}" for row in range(9))], {}, "data.target", "neither numbers nor classes"),
    "numbers as classes": (
        ["x,y", *(f"{row},{row / 7}" for row in range(9))],
        {"kind": "multiclass"},
        "data.kind",
        "the target has 9 different values in 9 rows, which are all numbers data.kind=regression",
    ),
    "decimal commas": (
        ["x;y", *(f"{row};{row},5" for row in range(9))],
        {},
        "data.file",
        "the column y has numbers with commas, such as 0,5 write decimal points",
    ),
    "another target": (CLASSES, {"target": "z"}, "data.target", "no such column known: x, c, y"),
    "another column": (CLASSES, {"columns": {"cc": "category"}}, "data.columns.cc", "did you mean c?"),
    "another kind": (CLASSES, {"columns": {"c": "categorical"}}, "data.columns.c", "did you mean category?"),
    "no input": (["x,y", *["1,a", "1,b"] * 9], {}, "data.file", "no column is left as an input"),
    "too much": (CLASSES, {"val_size": 40, "test_size": 20}, "data.val_size", "hold out 60 of 60 rows"),
    "a size": (CLASSES, {"val_size": "10"}, "data.val_size", "expected a number of examples, or a share"),
    "words": (CLASSES, {"bad_rows": "ignore", "kind": "regresion"}, "data.kind", "did you mean regression?"),
    "a quote": (CLASSES, {"delimiter": '"'}, "data.delimiter", "no quote"),
    "no list": (CLASSES, {"missing": None}, "data.missing", "expected a list of texts"),
    "an encoding": (CLASSES, {"encoding": "utf-9"}, "data.encoding", "there is no such encoding"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_reported(name: str, tmp_path: Path) -> None:
    lines, options, key, message = WRONG[name]
    assert message in problems(tmp_path, lines, **options)[key]


def test_rows_that_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [*CLASSES, "old,u,a", "1,u,", "1,u,d", "1"]
    table = prepared(tmp_path, lines, bad_rows="skip")
    assert len(table.inputs) == sum(len(table.rows[part]) for part in PARTS) == 60
    assert sorted(table.skipped.values()) == [1, 1, 1, 1]
    np.testing.assert_equal(table.inputs, prepared(tmp_path, CLASSES).inputs)


def test_an_earlier_layout_is_applied_not_fitted(tmp_path: Path) -> None:
    first = prepared(tmp_path, CLASSES)
    lines = [CLASSES[0], *(line.replace("u", "new") for line in CLASSES[1:7]), "9,v,a"]
    (tmp_path / "y.csv").write_text("\n".join(lines) + "\n")
    options = TableOptions.of({"file": str(tmp_path / "y.csv"), "target": "y"})
    again = prepare(options, first.layout)
    assert again.layout is first.layout
    assert again.inputs[:, 1].tolist() == [0, 2, 0, 2, 0, 2, 2]
    assert again.targets.tolist() == [0, 1, 2, 0, 1, 2, 0]
