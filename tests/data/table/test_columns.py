"""Kinds of columns, and their cells as numbers."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from lrflow.data.table.columns import cardinality, fit_column, kind_of, matrix_of, strange_cells
from lrflow.data.table.file import Reading, TableFile, read_table


def table_of(path: Path, texts: tuple[str, ...] = (), **columns: list[str]) -> TableFile:
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *map(",".join, rows)]) + "\n")
    return read_table(path, Reading(texts=frozenset(texts)), "data.file")


KINDS = {
    "numbers": (["1", "2.5", "", "-3e2"] * 10, "number"),
    "a mistake": ([*map(str, range(39)), "x"], "number"),
    "one number": (["7"] * 40, "ignore"),
    "one number or none": (["7", ""] * 20, "number"),
    "nothing": ([""] * 40, "ignore"),
    "texts": (["red", "green", "", "blue"] * 10, "category"),
    "one text": (["red"] * 40, "ignore"),
    "one text or none": (["red", "NA"] * 20, "category"),
    "names": ([f"name {row}" for row in range(40)], "ignore"),
    "booleans": (["True", "false", "", "false"] * 10, "boolean"),
    "yes and true": (["yes", "true"] * 20, "category"),
    "dates": ([f"2024-02-{day:02}" for day in range(1, 21)] * 2, "date"),
    "times": ([f"2024-02-{day:02}T10:00:00+02:00" for day in range(1, 21)] * 2, "date"),
    "versions": (["1-2-3", "2024"] * 20, "category"),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_of_a_column_is_seen_in_its_cells(name: str, tmp_path: Path) -> None:
    cells, kind = KINDS[name]
    assert kind_of(table_of(tmp_path / "x.csv", x=cells, y=["1"] * 40).columns["x"])[0] == kind


def test_cells_of_another_kind_are_found_with_their_lines(tmp_path: Path) -> None:
    table = table_of(
        tmp_path / "x.csv",
        n=[*map(str, range(18)), "1_0", "x"],
        b=["yes", "no"] * 9 + ["maybe", "no"],
        d=["2024-01-01", "20240201"] * 9 + ["2024-02-30", "2024-02-28"],
    )
    kinds = {"n": "number", "b": "boolean", "d": "date"}
    found = strange_cells(table, kinds)
    assert {row: one.line for row, one in found.items()} == {18: 20, 19: 21}
    assert "'1_0' in the column n is no number" in found[18].message
    assert set(strange_cells(table, {"b": "boolean"})) == set(strange_cells(table, {"d": "date"})) == {18}


def test_the_training_part_alone_tells_of_a_column(tmp_path: Path) -> None:
    table = table_of(
        tmp_path / "x.csv",
        n=["1", "2", "", "6", "1000"],
        c=["b", "a", "", "b", "z"],
        full=["1", "2", "3", "4", ""],
        d=["2024-01-01", "2024-01-03", "2024-01-08", "2024-01-01 12:00", "2024-01-01"],
    )
    train = np.arange(4)
    layouts = [fit_column(table.columns[name], kind, train, rare=1) for name, kind in
               {"n": "number", "c": "category", "full": "number", "d": "date"}.items()]  # fmt: skip
    numbers, category, full, dates = layouts
    assert (numbers["fill"], numbers["mean"], numbers["missing"]) == (2, 3, True)
    assert numbers["scale"] == pytest.approx(np.std([1, 2, 6]))
    assert (category["levels"], category["missing"], cardinality(category)) == (["a", "b"], True, 4)
    assert not full["missing"]
    assert dates["periods"] == ["year", "week", "day"]
    days = (datetime(2024, 1, 1) - datetime(1970, 1, 1)).days
    expected = [[1, 2, 1, days], [2, 1, 2, days + 2], [np.nan, 3, 3, days + 7], [6, 2, 4, days + 0.5],
                [1000, 0, np.nan, days]]  # fmt: skip
    np.testing.assert_equal(matrix_of(table, layouts), expected)
    rare = fit_column(table.columns["c"], "category", train, rare=2)
    assert matrix_of(table, [rare])[:, 0].tolist() == [1, 0, 2, 1, 0]
