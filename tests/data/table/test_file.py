"""Reading tables: cells against Python's own readers, and mistakes with their lines."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow.data.table import file as table_file
from lrflow.data.table.file import MISSING, Reading, read_table
from lrflow.errors import ConfigError

KEY = "data.file"


def read(path: Path, content: str | bytes, **reading: object) -> table_file.TableFile:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, Reading(**reading), KEY)  # type: ignore[arg-type]


CELLS = st.one_of(
    st.sampled_from([*MISSING, "a b", 'say "x"', "1_000", "inf", "1e5", " 7 ", "two\nlines", "a,b", "é"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)


@settings(max_examples=40)
@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=12))
def test_cells_are_those_that_were_written(rows: list[list[str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["a", "b", "c"], *rows])
        table = read_table(path, Reading(texts=frozenset("c")), KEY)
        starts = [number for number, line in enumerate(path.read_text().split("\n"), 1) if line]
    assert len(table.lines) == len(rows)
    assert set(table.lines) <= set(starts)
    for name, cells in zip("abc", zip(*rows, strict=True), strict=True):
        column = table.columns[name]
        for row, cell in enumerate(map(str.strip, cells)):
            if column.numbers is None:
                found = None if column.codes[row] < 0 else column.levels[column.codes[row]]
                assert found == (None if cell in MISSING else cell)
            elif row in column.strange:
                assert column.strange[row] == cell
            elif math.isnan(column.numbers[row]):
                assert cell in MISSING
            else:
                assert column.numbers[row] == float(cell)


def test_a_column_that_turns_out_to_hold_texts_keeps_them_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_file, "_CHUNK", 4)
    cells = ["007", "1.50", "12", "4", *"abcdefgh"]
    table = read(tmp_path / "x.csv", "k,v\n" + "".join(f"{cell},1\n" for cell in cells))
    assert table.columns["k"].levels == tuple(cells)
    numbers = table.columns["v"].numbers
    assert numbers is not None
    assert numbers.tolist() == [1] * 12


def test_files_of_other_programs_are_read(tmp_path: Path) -> None:
    expected = {"größe": [1.5, 2.5], "b": [3, 4]}
    for content, reading in (
        ("größe;b\r\n1.5;3\r\n2.5;4\r\n".encode("utf-8-sig"), {}),
        ("größe\tb\n1.5\t3\n\n2.5\t4".encode("cp1252"), {"encoding": "cp1252"}),
        ("größe|b|\n1.5|3|0\n2.5|4|1\n".encode("utf-16"), {"encoding": "utf-16"}),
    ):
        table = read(tmp_path / "x.csv", content, **reading)
        found = {name: column.numbers for name, column in table.columns.items()}
        assert {name: values.tolist() for name, values in found.items() if values is not None} == expected


ROWS = "".join(f"{row},{row}\n" for row in range(12))

WRONG = {
    "empty": ("", "the file is empty", {}),
    "no rows": ("a,b\n", "has no rows", {}),
    "double": ("a,b,a\n1,2,3\n", "names columns more than once: a", {}),
    "no names": ("1,2\n3,4\n", "holds numbers, not the names", {}),
    "ragged": (
        f"a,b\n{ROWS}1\n1,2,3\n",
        "line 14: has 1 cells, and the first line names 2 columns; line 15: has 3",
        {},
    ),
    "quotes": ('a,b\n1,"x"y\n1,2\n', "line 2: cannot be read", {}),
    "lines in quotes": ('a,b\n"x\ny\nz",2\n1\n', "line 5: has 1 cells", {}),
    "open quote": ('a,b\n1,2\n3,"4\n', "line 3: cannot be read", {}),
    "bytes": (b"a,b\n1,2\n3,\xe9\n", "line 3: byte 0xe9 is not utf-8", {}),
    "many": ("a,b\n" + "1\n" * 20, "line 6: has 1 cells, and the first line names 2 columns; and 15 more", {}),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_of_a_file_are_reported_with_their_lines(name: str, tmp_path: Path) -> None:
    content, message, reading = WRONG[name]
    with pytest.raises(ConfigError) as raised:
        read(tmp_path / "x.csv", content, **reading)
    (problem,) = raised.value.problems
    assert problem.key == KEY
    assert message in problem.message


def test_rows_that_cannot_be_read_are_left_out_if_the_config_says_so(tmp_path: Path) -> None:
    content = b'a,b\n1,2\n3\n4,"x"y\n5,\xe9\n6,7\n8,9,10\n11,12\n'
    table = read(tmp_path / "x.csv", content, skip=True)
    assert [column.as_texts()[1] for column in table.columns.values()] == [("1", "6", "11"), ("2", "7", "12")]
    assert table.lines.tolist() == [2, 6, 8]
    assert [one.line for one in table.mistakes] == [3, 4, 5, 7]


def test_an_open_quote_takes_no_other_row_with_it(tmp_path: Path) -> None:
    rows = [f"{row},{row}" for row in range(2, 30)]
    rows[3], rows[20] = '5,"5', '22,"two\nlines"'
    content = "\n".join(["a,b", *rows])
    table = read(tmp_path / "x.csv", content, skip=True)
    assert table.lines.tolist() == [line for line in range(2, 31) if line not in (5, 23)]
    assert table.mistakes == ((5, "cannot be read: a quote is open until line 22, ',' expected after '\"'"),)
    content = content.replace('"two\nlines"', "2") + '\n1,"1\n3\n4,4\n'
    table = read(tmp_path / "x.csv", content, skip=True)
    assert [one.line for one in table.mistakes] == [5, 30, 31]
    assert "a quote is open until line 30, " in table.mistakes[0].message
    assert "a quote is open until line 32, unexpected end of data" in table.mistakes[1].message
    assert table.lines.tolist() == [line for line in range(2, 33) if line not in (5, 30, 31)]


def test_a_file_that_does_not_exist_has_a_neighbour(tmp_path: Path) -> None:
    (tmp_path / "houses.csv").touch()
    with pytest.raises(ConfigError) as raised:
        read_table(tmp_path / "house.csv", Reading(), KEY)
    assert raised.value.problems[0].hint == f"did you mean {tmp_path}/houses.csv?"


def test_parquet_files_have_the_columns_of_csv_files(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from datetime import date

    from pyarrow import parquet

    content = {
        "n": [1, None, 3], "x": [1.5, math.nan, math.inf], "t": ["a", None, "?"], "b": [True, False, None],
        "d": [date(2024, 5, 31), None, date(2024, 6, 1)],
    }  # fmt: skip
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table(content), path)
    table = read_table(path, Reading(), KEY)
    found = table.columns
    assert found["n"].numbers is not None
    assert found["x"].numbers is not None
    np.testing.assert_equal(found["n"].numbers, [1, math.nan, 3])
    np.testing.assert_equal(found["x"].numbers, [1.5, math.nan, math.nan])
    assert found["x"].strange == {2: "inf"}
    assert (found["t"].codes.tolist(), found["t"].levels) == ([0, -1, -1], ("a",))
    assert [found["b"].levels[code] for code in found["b"].codes[:2]] == ["true", "false"]
    assert found["d"].levels == ("2024-05-31", "2024-06-01")
    path.write_bytes(b"no parquet")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_table(path, Reading(), KEY)
