"""`lrflow report` and `lrflow compare page=FILE` write pages of runs and sweeps, and say what they lack."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lrflow.cli import main

OLDER = Path(__file__).parent.parent / "older_runs"


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, place in {"whole": "2026_whole", "interrupted": "2026_other", "sweep": "sweeps/s1"}.items():
        shutil.copytree(OLDER / name, tmp_path / "outputs" / place)
    return tmp_path / "outputs"


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["whole"], ["2026_whole"]),
        (["outputs/2026_other", "whole"], ["2026_other", "2026_whole"]),
        (["s1"], ["sweeps/s1"]),
        (["outputs/sweeps/s1", "sweeps/s1/0"], ["sweeps/s1", "sweeps/s1/0"]),
        (["2026_whole", "output=outputs"], ["2026_whole"]),
    ],
)
def test_pages_are_written_into_the_folders(
    words: list[str], written: list[str], outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *words]) == 0
    paths = [f"outputs/{place}/report.html" for place in written]
    assert capsys.readouterr().out.splitlines() == paths
    assert {str(path.relative_to(outputs.parent)) for path in outputs.rglob("report.html")} == {*paths}


def test_what_reads_run_folders_starts_without_torch(outputs: Path) -> None:
    folder = (outputs / "sweeps" / "s1").relative_to(outputs.parent)
    commands = [
        ["report", "whole", str(folder)], ["compare", "whole", "interrupted", "page=both.html"],
        ["plot", "whole"], ["plot", str(folder), "figure=lr", "out=lr.svg"], ["dashboard", "nowhere"],
    ]  # fmt: skip
    (outputs / "2026_other").rename(outputs / "interrupted")
    code = f"""
import sys
from lrflow.cli import main
print([main(words) for words in {commands}])
import lrflow.dashboard.live, lrflow.dashboard.serve
print({{"torch", "pytorch_lightning", "torchmetrics", "sklearn"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["[0, 0, 0, 0, 2]", "set()"], done.stderr


def test_a_remote_run_is_downloaded(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", (outputs / "2026_whole").absolute().as_uri()]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parts[0] == "remote_outputs"
    assert "<h1>whole</h1>" in path.read_text()


def test_runs_are_compared_on_a_page(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "whole", "outputs/sweeps/s1/2", "page=both.html"]) == 0
    assert capsys.readouterr().out == "both.html\n"
    assert "2 runs compared" in Path("both.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report"], "needs a run or a sweep"),
        (["report", "2026"], "is in the names of 2 runs"),
        (["report", "nothing"], "expected `last`, a run folder, or a part of the name"),
        (["report", "whole", "output=none"], "there is no such folder"),
        (["compare", "whole", "other", "page=both.pdf"], "expected the path of an HTML file"),
        (["compare", "whole", "other", "page=none/both.html"], "in a folder that exists"),
    ],
)
def test_what_cannot_be_written_is_reported(
    words: list[str], said: str, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("record", [None, '{"batch_size": 64}'])
def test_a_search_without_a_page_is_reported(
    record: str | None, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "found").mkdir()
    (outputs / "found" / "config.yaml").write_text("lrflow: {choices: {task: find}}\n")
    if record:
        (outputs / "found" / "find.json").write_text(record)
    assert main(["report", "found"]) == 1
    assert "it holds no range test" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_reported(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "2026_whole" / "report.html").mkdir()
    assert main(["report", "whole"]) == 1
    assert "its page cannot be written" in capsys.readouterr().err
