"""`lrflow report` on the folder of a forecast: what the page says, and folders that hold none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lrflow.cli.report import write_reports
from lrflow.errors import LrflowError

RECORD = {
    "metric": "val/loss", "law": "multi_power", "parameters": {"L0": 1.25, "A": 0.5}, "r2": 0.9976, "scatter": 0.004,
    "runs": [{"folder": "trunk", "losses": 12, "steps": 600}], "steps": 800,
    "predicted": {"loss": 1.503, "low": 1.49, "high": 1.52},
    "real": {"folder": "real", "step": 800, "loss": 1.51, "predicted": {"loss": 1.503, "low": 1.49, "high": 1.52},
             "error": -0.0046, "mean_error": 0.01, "worst_error": 0.03, "inside_the_band": 0.75},
    "best": {"schedule": "linear", "predicted": 1.48, "command": "python -m lrflow schedule=linear",
             "others": {"wsd": 1.49, "linear": 1.48}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "forecast.json").write_text(json.dumps(RECORD))
    lines = ["step,lr,loss,low,high", "10,0.003,3.5,3.4,3.6", "400,0.002,1.9,1.8,2.0", "800,0.0,1.503,1.49,1.52"]
    (tmp_path / "forecast.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_page_of_a_forecast(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_reports([str(folder)], folder)
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    page = (folder / "report.html").read_text()
    told = ["val/loss after 800 steps", "1.503", "1.49 to 1.52, with 90% confidence", "R2 0.9976", "forecast -0.46%",
            "75% of its losses lie in the band", "trunk", "python -m lrflow schedule=linear"]  # fmt: skip
    assert [words for words in told if words not in page] == []


def test_a_folder_without_a_whole_forecast(folder: Path) -> None:
    for name, content in (("forecast.csv", "step,lr\n1,0.1\n"), ("forecast.json", "{}")):
        before = (folder / name).read_text()
        (folder / name).write_text(content)
        with pytest.raises(LrflowError, match="cannot be read as a forecast"):
            write_reports([str(folder)], folder)
        (folder / name).write_text(before)
    (folder / "forecast.csv").unlink()
    with pytest.raises(LrflowError, match="cannot be read as a forecast"):
        write_reports([str(folder)], folder)
