"""Pictures for a paper: their size, format and fonts, and that nothing in them waits for a mouse."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import pytest
import vl_convert
from PIL import Image

from lrflow.reports.chart_parts import Axis, Figure, Line, Points, Rule, Scale
from lrflow.reports.charts import bars, chart, parallel
from lrflow.reports.pictures import Style, draw, figures_of, has_font, still

CHART = chart(
    Axis("step"),
    Axis("loss", "log"),
    [Line("train", [0, 1, 2], [1, 0.1, 0.01]), Line("val", [0, 2], [2, 0.3], dash="planned"), Rule("spike", 1, "why")],
)
FIGURE = Figure("loss", "Loss", CHART)


def test_sizes_are_in_inches(tmp_path: Path) -> None:
    style = Style(width=3.5, height=2, font="DejaVu Serif", size=9)
    svg = draw(FIGURE, tmp_path / "new" / "loss.svg", style).read_text()
    assert 'width="3.5in" height="2in" viewBox="0 0 336 192"' in svg
    assert 'font-family="DejaVu Serif, sans-serif"' in svg
    pdf = draw(FIGURE, tmp_path / "loss.pdf", style).read_bytes()
    assert re.search(rb"/MediaBox \[0 0 252 144\]", pdf)
    assert re.search(rb"/FontName /\w+\+DejaVuSerif\b", pdf), "the font is embedded"
    with Image.open(BytesIO(draw(FIGURE, tmp_path / "loss.png", style).read_bytes())) as png:
        assert png.size == (1050, 600)


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_no_text_of_a_picture_shows_a_secret(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "q7Rk2vXw9Zp4")

    def picture(word: str) -> bytes:
        parts = [Line(f"run {word}", [0, 1], [1, 2]), Rule(word, 1, "why")]
        spec = chart(Axis(f"step of {word}"), Axis(f"https://user:{word}@host"), parts)
        return draw(Figure("loss", word, spec), tmp_path / f"{len(word)}.{kind}", Style()).read_bytes()

    if kind == "svg":  # the numbers of its parts go on from one picture to the next
        texts = re.findall(r">([^<]+)</text>", picture("q7Rk2vXw9Zp4").decode())
        assert {"run ***", "***", "step of ***", "https://user:***@host"} <= {*texts}
        assert b"q7Rk2vXw9Zp4" not in picture("q7Rk2vXw9Zp4")
    else:
        assert picture("q7Rk2vXw9Zp4") == picture("***") != picture("+++")


def test_the_legend_is_in_the_picture_and_what_the_mouse_shows_is_not(tmp_path: Path) -> None:
    svg = draw(FIGURE, tmp_path / "loss.svg", Style()).read_text()
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert {"train", "val", "spike", "planned", "step", "loss"} <= {*texts}
    marks = [layer["mark"]["type"] for layer in still(CHART)["layer"]]
    assert marks == ["line", "line", "rule"]
    assert len(CHART["layer"]) == 5
    assert 'width="3.5in" height="2.38in"' in svg, "at most two thirds as high as wide"


@pytest.mark.parametrize(
    "spec",
    [
        bars({"lr": 0.6, "seed": 0.1}, "share", percent=True),
        parallel([Scale("lr", [1e-3, 1e-1], log=True), Scale("loss", [1.0, 2.0])], ["trial 0", "trial 1"]),
        chart(
            Axis("LR", "log"),
            Axis("loss", ends=(0, 2)),
            [
                Line("a", [0.1, 1], [1, 2], shade=0.1, errors=[0.1, 0.2]),
                Points("b", [0.1, 1], [1, 2], ["x", "y"], ["0", "1"], shape="star", shades=[0.1, 1.0]),
            ],
            shade="LR",
        ),
    ],
    ids=["bars", "parallel", "shades"],
)
def test_every_kind_of_chart_is_drawn(spec: dict, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    svg = draw(Figure("a", "A", spec), tmp_path / "a.svg", Style()).read_text()
    assert svg.count("<path") > 3
    assert "NaN" not in svg
    vl_convert.vegalite_to_svg(spec, show_warnings=True)
    assert "".join(capfd.readouterr()) == "", "Vega-Lite warns of nothing"


def test_fonts_that_are_not_here_are_known() -> None:
    assert all(map(has_font, ("sans-serif", "serif", "STIXGeneral")))
    assert not any(map(has_font, ("Nowhere", 'a"b', "a<b", "a&b", "a\0")))


def test_a_folder_has_the_figures_of_its_page() -> None:
    names = {
        name: [figure.name for figure in figures_of(Path(__file__).parents[1] / "older_runs" / name)]
        for name in ("sweep", "whole")
    }
    assert names == {"sweep": ["lr", "learning"], "whole": ["lr", "loss", "metric-accuracy", "grad-norm"]}
