"""The data module of tables: inputs against scikit-learn's preprocessing, files to predict, the description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from lrflow.data import Table
from lrflow.data.table.columns import PERIODS
from lrflow.errors import ConfigError
from lrflow.training.checkpoint_file import encode

HEAD = "size,colour,sold,when,price"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    random = np.random.RandomState(0)
    lines = [HEAD]
    for row in range(120):
        size = "" if row % 11 == 0 else f"{random.randn() * 30 + 100:.3f}"
        colour = ["red", "green", "blue", ""][random.randint(4)]
        lines.append(
            f"{size},{colour},{'yes' if row % 3 else 'no'},2024-01-{row % 28 + 1:02},{random.rand() * 1e5:.1f}"
        )
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "x.csv"


def table(file: Path, **options: Any) -> Table:
    data = Table(str(file), "price", **options)
    data.setup()
    return data


def input_names(layout: dict[str, Any]) -> list[str]:
    """Return the names of the inputs of the network, in their order."""
    columns = layout["columns"]
    numeric = [one for one in columns if one["kind"] != "category"]
    names = [one["name"] for one in numeric]
    for period in PERIODS:
        dates = [one["name"] for one in columns if period in one.get("periods", ())]
        names += [f"{name} ({wave} of the {period})" for name in dates for wave in ("sine", "cosine")]
    names += [f"{one['name']} is missing" for one in numeric if one["missing"]]
    for one in columns:
        if one["kind"] == "category":
            levels = ["unknown", *one["levels"], *(["missing"] if one["missing"] else [])]
            names += [one["name"]] if layout["categories"] == "embed" else [f"{one['name']}={name}" for name in levels]
    return names


def test_inputs_are_those_of_scikit_learn(file: Path) -> None:
    data = table(file, categories="one_hot", columns={"when": "ignore"}, rare=0)
    rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
    prepared = data._prepared
    assert prepared is not None
    train, test = prepared.rows["train"], prepared.rows["test"]
    sizes = np.array([[float(row[0] or "nan")] for row in rows])
    sold = np.array([[float(row[2] == "yes")] for row in rows])
    colours = np.array([[row[1]] for row in rows])
    numbers = []
    for column in (sizes, sold):
        scaler = StandardScaler().fit(column[train])
        filled = SimpleImputer(strategy="median").fit(column[train]).transform(column[test])
        numbers.append(scaler.transform(filled))
    encoder = OneHotEncoder(categories=[["blue", "green", "red", ""]]).fit(colours[train])
    assert data.test_set is not None
    found = data.test_set.tensors[0].numpy()
    expected = [*numbers, np.isnan(sizes[test]), np.zeros((len(test), 1)), encoder.transform(colours[test]).toarray()]
    np.testing.assert_allclose(found, np.concatenate(expected, 1), atol=1e-6)
    assert input_names(data.layout or {}) == [
        "size", "sold", "size is missing", "colour=unknown", "colour=blue", "colour=green", "colour=red",
        "colour=missing",
    ]  # fmt: skip
    assert data.test_set.tensors[1].tolist() == pytest.approx([float(rows[row][4]) for row in test])


def test_dates_are_a_number_and_the_phase_of_year_and_week(file: Path) -> None:
    data = table(file, columns={"size": "ignore", "colour": "ignore", "sold": "ignore"}, val_size=0, test_size=0)
    assert data.train_set is not None
    inputs = data.train_set.tensors[0]
    assert inputs.shape == (120, 5)
    torch.testing.assert_close(inputs[:, 3], inputs[:, 3].roll(-28).where(torch.arange(120) < 92, inputs[:, 3]))
    torch.testing.assert_close(inputs[0, 3:], inputs[7, 3:])  # a week later
    assert not torch.allclose(inputs[0, 1:3], inputs[7, 1:3])


def test_a_file_to_predict_gets_the_preprocessing_of_the_training(file: Path, tmp_path: Path) -> None:
    data = table(file)
    new = tmp_path / "new.csv"
    new.write_text("when,extra,colour,size,sold\n2024-01-01,x,purple,,yes\n2024-01-02,x,red,100,no\n")
    restored = Table(str(tmp_path / "gone.csv"), "price")  # the file of the training need not be there
    restored.use_fitted(encode({"fitted": data.fitted})["fitted"])
    inputs = restored.normalise(restored.read(new, "task.inputs"))
    torch.testing.assert_close(inputs, data.normalise(data.read(new, "task.inputs")))
    names = input_names(restored.layout or {})
    found = dict(zip(names, inputs[0].tolist(), strict=True))
    assert (found["colour"], found["size is missing"]) == (0, 1)
    assert inputs[1, names.index("colour")] == 3
    example = restored.example_inputs()
    assert example is not None
    assert restored.normalise(example).shape[1] == len(names)
    wrong = {
        "colour,siz,sold,when\na,1,no,2024-01-01\n": "size: did you mean siz?",
        "colour,size,sold,when\na,big,no,2024-01-01\n": "line 2: 'big' in the column size",
    }
    for content, message in wrong.items():
        new.write_text(content)
        with pytest.raises(ConfigError) as raised:
            restored.read(new, "task.inputs")
        assert message in str(raised.value)


def test_facts_that_the_data_do_not_have_are_reported(file: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        table(file, facts={"examples": 100, "shape": [3], "outputs": 2})
    assert {one.key for one in raised.value.problems} == {
        "data.facts.examples", "data.facts.shape", "data.facts.outputs"
    }  # fmt: skip


def test_the_description_names_every_column(file: Path) -> None:
    file.write_text(
        file.read_text().replace(HEAD, f"{HEAD},note").replace("\n", ",same\n").replace("note,same", "note")
    )
    with file.open("a") as appended:
        appended.write("1,red\n")
    console = Console(width=200, record=True, quiet=False)
    description = table(file, bad_rows="skip").describe()
    with console.capture() as captured:
        console.print(description)
    text = captured.get()
    expected = ["120 rows (train 84, val 18, test 18)", "left out: rows that cannot be read (1)", "size", "category"]
    expected += ["3 levels: blue, green, red", "boolean", "median 2024-01-1", "regression", "has one value"]
    for words in expected:
        assert words in text
