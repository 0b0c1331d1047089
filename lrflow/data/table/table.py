"""The data module of tables: rows of a CSV or Parquet file, with numbers, categories, booleans and dates as inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group, RenderableType

from lrflow.data.listing import left_out_lines
from lrflow.data.module import Examples
from lrflow.data.prepared import PreparedModule
from lrflow.data.table.columns import (
    PERIODS,
    UNKNOWN,
    Layout,
    as_date,
    cardinality,
    check_same_columns,
    matrix_of,
    strange_cells,
    texts_of,
)
from lrflow.data.table.file import FILE_TYPES, MISSING, mistaken, read_table
from lrflow.data.table.parts import PARTS, PreparedTable, TableOptions, prepare
from lrflow.display import Grid
from lrflow.errors import ConfigError, shortened
from lrflow.wording import counted, joined, number


class Table(PreparedModule[PreparedTable]):
    """The rows of a table, of which one column is the target.

    An input is a row of numbers: the scaled numbers, booleans and dates, an indicator for each column of them that
    lacks values, and the categories as indices, from 1 on; 0 is the index of categories that the training part lacks.
    Everything that is computed, such as medians, scales and indices, is computed from the training part.

    Args:
        file: CSV or Parquet file.
        target: name of the column to predict.
        kind: `regression`, `binary` or `multiclass`; None: classes if the target has texts or few whole numbers.
        columns: kinds of columns by name, instead of those that their cells show: `number`, `category`, `boolean`,
            `date` or `ignore`.
        split: a column that says `train`, `val` or `test` for each row; None: `val_size` and `test_size` are held out.
        weight: a column of numbers by which `data.sampler=weighted` draws the rows to train on; it is no input.
        val_file: a file for validation; None: rows of `file`.
        test_file: a file for the test; None: rows of `file`.
        val_size: rows held out for validation, or a share of them such as `10%`; stratified for classes.
        test_size: rows held out for the test, or a share of them.
        folds: number of parts of a cross-validation, stratified, of the rows that are not for the test; None: none.
        fold: the part that validates, from 0; the others train, and `val_size` does not count.
        split_seed: seed that selects the rows held out.
        missing: cells that hold no value.
        delimiter: the sign between cells; None: the most frequent of `, ; tab |` in the first line.
        encoding: encoding of CSV files.
        bad_rows: what happens to a row that cannot be read or lacks a target: `error`, or `skip`.
        categories: `embed`: an index per category, which `lrflow.models.TableNet` embeds; `one_hot`.
        scaling: `standard`: numbers and dates with zero mean and unit variance; `none`. A numeric target is always
            scaled for the loss, by `facts.units`.
        rare: categories with fewer training rows than this share the index 0.
        batch_size: training examples per batch and device.
        eval_batch_size: examples per batch in validation and test; None: `batch_size`.
        drop_last: whether to leave out an epoch's last batch if it is smaller.
        num_workers: worker processes per loader.
        facts: properties of the data that the config states; see `DataModule`.

    Raises:
        ConfigError: invalid options, all in one error; in `setup`, also what does not fit in the files, with its line.
    """

    file_types = FILE_TYPES
    compared = ("examples", "shape", "outputs", "cardinalities")

    def __init__(
        self,
        file: str,
        target: str,
        kind: str | None = None,
        columns: Mapping[str, str] | None = None,
        split: str | None = None,
        weight: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        val_size: int | float | str = "15%",
        test_size: int | float | str = "15%",
        folds: int | None = None,
        fold: int = 0,
        split_seed: int = 0,
        missing: Sequence[str] = MISSING,
        delimiter: str | None = None,
        encoding: str = "utf-8",
        bad_rows: str = "error",
        categories: str = "embed",
        scaling: str = "standard",
        rare: int = 2,
        batch_size: int = 64,
        eval_batch_size: int | None = 1024,
        drop_last: bool = False,
        num_workers: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in TableOptions.__dataclass_fields__}
        self.options = TableOptions.of(given)
        super().__init__(batch_size, eval_batch_size, 0, 0, drop_last, num_workers, split_seed, facts)

    def load(self) -> tuple[Examples, None]:
        """All rows: [rows, columns] in float64, NaN where a number is missing and categories as indices; targets."""
        prepared = self._take(prepare(self.options, self.layout))
        if prepared.weights is not None:
            self.train_weights = torch.from_numpy(prepared.weights[prepared.rows["train"]])
        targets = torch.from_numpy(prepared.targets)
        return Examples(
            torch.from_numpy(prepared.inputs), targets.float() if targets.is_floating_point() else targets
        ), None

    def split(self, pool: Examples) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the rows of the parts, as files, a column or sizes define them."""
        assert self._prepared is not None
        train, val, test = (torch.from_numpy(self._prepared.rows[part]) for part in PARTS)
        return train, val, test

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scale the numbers, fill in missing ones and mark them, and append the categories.

        Args:
            inputs: [rows, columns], as `load` returns them.

        Returns:
            float32 [rows, inputs of the network].
        """
        layout = self._layout
        numeric = [place for place, one in enumerate(layout["columns"]) if one["kind"] != "category"]
        parts: list[torch.Tensor] = []
        if numeric:
            columns = [layout["columns"][place] for place in numeric]
            values = inputs[:, numeric].double()
            absent = values.isnan()
            values = torch.where(absent, self._row(columns, "fill", inputs), values)
            scaled = layout["scaling"] == "standard"
            parts.append(
                (values - self._row(columns, "mean", inputs)) / self._row(columns, "scale", inputs)
                if scaled
                else values
            )
            for period, days in PERIODS.items():
                if dates := [index for index, one in enumerate(columns) if period in one.get("periods", ())]:
                    angle = values[:, dates] * (2 * math.pi / days)
                    parts.append(torch.stack([angle.sin(), angle.cos()], 2).flatten(1))
            if marked := [index for index, one in enumerate(columns) if one["missing"]]:
                parts.append(absent[:, marked].double())
        for place, one in enumerate(layout["columns"]):
            if one["kind"] == "category":
                index = inputs[:, place]
                if layout["categories"] == "one_hot":
                    levels = torch.arange(cardinality(one), device=inputs.device)
                    parts.append((index[:, None] == levels).double())
                else:
                    parts.append(index[:, None].double())
        return torch.cat(parts, 1).float()

    def read(self, path: Path, key: str) -> torch.Tensor:
        """Return the rows of a file that has the columns of the training; its target, if it has one, is not used."""
        layout = self._layout
        kinds = {one["name"]: one["kind"] for one in layout["columns"]}
        reading = replace(self.options.reading, texts=texts_of(layout), skip=False)
        table = read_table(path, reading, key)
        check_same_columns(table, list(kinds), key)
        if strange := strange_cells(table, kinds):
            raise ConfigError([mistaken(path, strange.values(), key, table.row)])
        return torch.from_numpy(matrix_of(table, layout["columns"]))

    def example_inputs(self) -> torch.Tensor | None:
        """Two rows of the medians and the first categories; None before they are fitted."""
        if self.layout is None:
            return None
        row = [one.get("fill", UNKNOWN + 1.0) for one in self.layout["columns"]]
        return torch.tensor([row, row], dtype=torch.float64)

    def describe(self) -> RenderableType | None:
        """The columns with their kinds, missing values and what is fitted to them; and the rows of each part."""
        prepared = self._prepared or prepare(self.options, self.layout)
        layout = prepared.layout
        target = layout["target"]
        parts = ", ".join(f"{part} {len(prepared.rows[part]):,}" for part in PARTS)
        lines = [f"{self.options.file}: {counted(len(prepared.inputs), 'row')} ({parts})"]
        lines += left_out_lines(prepared.skipped)
        grid = Grid("<column", "<kind", "missing", "<in the training part")
        for one in layout["columns"]:
            absent = prepared.absent.get(one["name"], 0)
            grid.row(shortened(one["name"]), one["kind"], f"{absent:,}" if absent else "", _fitted(one))
        for name, why in prepared.ignored.items():
            grid.row(shortened(name), "ignored", "", why, style="dim")
        summary = f"{number(target['mean'])} ± {number(target['scale'])}"
        if target["classes"]:
            counts = np.bincount(prepared.targets, minlength=len(target["classes"]))
            pairs = zip(map(shortened, target["classes"]), counts, strict=True)
            summary = joined([f"{name} {count:,}" for name, count in pairs], 6)
        grid.row(f"{shortened(target['name'])} (target)", target["kind"], "", summary)
        return Group(*lines, grid)

    def describe_inputs(self) -> list[dict[str, Any]]:
        """The columns in their order, each with its kind, and its levels if it is a category."""
        return [dict(one) for one in self._layout["columns"]]

    @property
    def target_name(self) -> str | None:
        """The column to predict; None for classes."""
        return None if self.class_names else str(self._layout["target"]["name"])

    def _row(self, columns: Sequence[Layout], name: str, inputs: torch.Tensor) -> torch.Tensor:
        return torch.tensor([one[name] for one in columns], dtype=torch.float64, device=inputs.device)


def _fitted(layout: Layout) -> str:
    """Return what is fitted to a column, in words."""
    if layout["kind"] == "category":
        return f"{counted(len(layout['levels']), 'level')}: {joined([*map(shortened, layout['levels'])], 4)}"
    if layout["kind"] == "date":
        return f"median {as_date(layout['fill'])}"
    if layout["kind"] == "boolean":
        return f"{layout['mean']:.0%} true"
    return f"{number(layout['mean'])} ± {number(layout['scale'])}"
