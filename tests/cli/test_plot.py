"""`lrflow plot`, on the folders of real runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrflow.cli import main

pytestmark = pytest.mark.usefixtures("outputs")


def test_without_a_figure_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "sweep"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["lr", "val/loss", "against", "optimizer.lr"]
    assert lines[2].split() == ["learning", "Learning", "curves"]
    assert "figure=all" in lines[-1]


def test_figures_are_drawn_into_the_folder_or_a_file(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "outputs/sweep", "figure=all"]) == 0
    assert capsys.readouterr().out.split() == [f"outputs/sweep/pictures/{name}.pdf" for name in ("lr", "learning")]
    assert (outputs / "sweep" / "pictures" / "lr.pdf").read_bytes().startswith(b"%PDF")
    assert main(["plot", "figure=lr", "sweep", "out=here.svg", "width=double", "font=serif", "size=9"]) == 0
    assert 'width="7.16in"' in Path("here.svg").read_text()
    assert not (outputs / "sweep" / "report.html").exists()
    Path("taken").touch()
    assert main(["plot", "whole", "figure=lr", "out=taken/lr.pdf"]) == 1
    assert "taken: cannot be written" in capsys.readouterr().err


def test_a_run_without_values_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("name: x")
    for words in ([], ["figure=all"], ["figure=lr"]):
        assert main(["plot", str(tmp_path), *words]) == 1
        assert "it has no values to draw" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["lrflow plot needs a run or a sweep such as lrflow plot last figure=lr"]),
        (["sweep", "whole"], ["takes one run or sweep"]),
        (["sweep", "figrue=lr"], ["figrue = lr", "did you mean figure?"]),
        (["sweep", "figure=lrr"], ["figure = lrr", "did you mean lr?"]),
        (["sweep", "figure=all", "out=a.pdf"], ["out = a.pdf", "2 figures are named"]),
        (
            ["sweep", "width=singel", "height=0", "size=x", "font=Nowhere", "out=a.jpg"],
            ["did you mean single?", "from 1 to 40", "from 4 to 40", "no such font", "ends with .pdf or .svg or .png"],
        ),
        (["nowhere", "figure=lr"], ["run = nowhere"]),
    ],
)
def test_problems_are_reported_at_once(
    words: list[str], said: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plot", *words]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert [part for part in said if part not in error] == []
