"""Charts: their colours, legends, thinned lines and descriptions; that each compiles, the browser shows elsewhere."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from pages import colour, curves, marks

from lrflow.display import COLD_TO_HOT, CURVES, MUTED
from lrflow.reports.chart_layers import MAX_DRAWN, thinned
from lrflow.reports.chart_parts import Axis, Band, Line, Points, Rule, Scale
from lrflow.reports.charts import bars, chart, parallel

STEP, LOSS = Axis("step"), Axis("loss")


SEEN_WITH = {
    "all cones": np.eye(3),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "tritanopia": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}
"""What of linear RGB is seen with colour blindness (Machado, Oliveira and Fernandes, 2009)."""


def linear(colour: str) -> np.ndarray:
    """Return the linear RGB of a colour in sRGB (IEC 61966-2-1)."""
    values = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Return the CIELAB coordinates of linear RGB, whose distances are about those that are seen."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", SEEN_WITH)
@pytest.mark.parametrize("palette", [CURVES, (*COLD_TO_HOT, MUTED)], ids=["curves", "cold to hot"])
def test_colours_are_told_apart_with_colour_blindness(palette: tuple[str, ...], eyes: str) -> None:
    seen = [lab(SEEN_WITH[eyes] @ linear(colour)) for colour in palette]
    near = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a in range(len(seen)) for b in range(a)}
    assert min(near.values()) > 12, min(near, key=near.get)


@pytest.mark.parametrize("ground", ["#ffffff", "#1c1f25"])
def test_curves_are_seen_on_white_and_on_black(ground: str) -> None:
    lightness = [np.array([0.2126, 0.7152, 0.0722]) @ linear(colour) + 0.05 for colour in (ground, *CURVES)]
    contrasts = [max(lightness[0], one) / min(lightness[0], one) for one in lightness[1:]]
    assert min(contrasts) >= 3, "the least contrast of a graphic in WCAG 2.2"


def test_equal_names_have_equal_colours_and_one_entry_in_the_legend() -> None:
    spec = chart(
        STEP,
        LOSS,
        [
            Line("head", [0, 1], [1, 2], dash="planned"),
            Line("head", [0, 1], [1, 3]),
            Line("body", [0, 1], [1, 3], colour=CURVES[0]),
            Rule("spike", 1, "it rose"),
            Rule("spike", 2, "again", dashed=True),
            Band("spike", 1, 2),
        ],
    )
    assert spec["usermeta"]["legend"] == [
        {"name": "head", "colour": CURVES[1], "drawn": "line"},
        {"name": "body", "colour": CURVES[0], "drawn": "line"},
        {"name": "spike", "colour": CURVES[2], "drawn": "line"},
        {"name": "planned", "colour": MUTED, "drawn": "dash"},
    ]
    assert colour(spec, "spike") == CURVES[2]
    assert spec["layer"][0]["mark"]["type"] == "rect", "bands lie behind"
    hints = {row["hint"] for (row,) in marks(spec, "rule")}
    assert hints == {"it rose", "again"}
    assert not chart(STEP, LOSS, [Line("one", [0], [1])])["usermeta"]["legend"]


def test_a_long_line_keeps_its_peaks_its_ends_and_its_gaps() -> None:
    y = np.random.default_rng(0).normal(size=50_000)
    y[[17, 40_000]] = 99, -99
    y[30_000:31_000] = math.nan
    y[12_345] = math.inf
    spec = chart(STEP, LOSS, [Line("loss", range(len(y)), y.tolist())])
    rows = {int(row["x"]): row["y"] for row in curves(spec)[0]}
    assert len(rows) <= MAX_DRAWN + 4
    assert (rows[17], rows[40_000], rows[30_000], rows[12_345]) == (99, -99, None, None)
    assert {0, 49_999} <= rows.keys()
    assert all(value is None or value == y[at] for at, value in rows.items())
    assert spec["usermeta"]["note"] == f"Drawn: {len(rows):,} of 50,000 points, with the extremes of each stretch."
    assert "lowest -99, highest 99" in spec["description"]


@pytest.mark.parametrize(
    ("y", "kept"),
    [
        ([], []),
        ([math.nan] * 9, []),
        ([1.0] * 3, [0, 1, 2]),
        ([0, 1, 2, 9, 2, 1, 0, -5, 0], [0, 3, 7, 8]),
    ],
)
def test_a_line_is_thinned_to_its_ends_and_extremes(y: list[float], kept: list[int]) -> None:
    assert thinned(range(len(y)), y, 4) == kept


def test_what_a_logarithmic_axis_cannot_show_is_a_gap() -> None:
    spec = chart(Axis("LR", "log"), Axis("loss", "log"), [Line("a", [0, 1, 2, 3], [1, 1, 0, 2])])
    assert [(row["x"], row["y"]) for row in curves(spec)[0]] == [(1, 1), (2, None), (3, 2)]


def test_shades_follow_a_bar_and_what_has_none_is_grey() -> None:
    parts = [Line("a", [0, 1], [1, 2], shade=1e-3), Line("b", [0, 1], [1, 3], shade=1e-1), Line("c", [0, 1], [0, 0])]
    spec = chart(STEP, LOSS, [*parts, Points("best", [1], [3], shades=[None])], shade="LR")
    shaded = spec["layer"][0]["encoding"]["color"]["condition"]
    assert (shaded["scale"]["domain"], tuple(shaded["scale"]["range"])) == ([1e-3, 1e-1], COLD_TO_HOT)
    assert spec["layer"][1]["encoding"]["color"] == {"value": MUTED}
    assert spec["usermeta"]["legend"] == []
    one = chart(STEP, LOSS, parts[:1], shade="LR")
    assert one["layer"][0]["encoding"]["color"] == {"value": COLD_TO_HOT[2]}


def test_parallel_coordinates_place_numbers_and_words() -> None:
    scales = [Scale("on", [True, None]), Scale("lr", [1e-3, 1e-1], log=True), Scale("loss", [2.0, 2.0])]
    spec = parallel(scales, ["trial 0", "trial 1"])
    places = [(row["axis"], row["line"], row["place"]) for row in spec["data"]["values"]]
    assert places == [("on", 0, 0.5), ("lr", 0, 0.0), ("lr", 1, 1.0), ("loss", 0, 0.5), ("loss", 1, 0.5)]
    texts = [(row["axis"], row["text"]) for row in marks(spec, "text")[0]]
    assert texts == [("on", "true"), ("lr", "0.001"), ("lr", "0.1"), ("loss", "2")]


def test_steps_are_marked_by_whole_numbers() -> None:
    for at, marked in (([0, 1.0], 1), ([0, 0.5], None)):
        axis = chart(STEP, LOSS, [Line("a", at, [1, 2])])["layer"][0]["encoding"]["x"]["axis"]
        assert axis.get("tickMinStep") == marked


def test_a_line_along_an_edge_is_not_cut() -> None:
    for axis in (Axis("LR", ends=(0.0, 1.0)), Axis("LR", "log")):
        place = chart(STEP, axis, [Line("a", [0, 1], [0, 1])])["layer"][0]["encoding"]
        assert all(place[side]["scale"]["padding"] >= Line("a", [0], [0]).width / 2 for side in "xy")


def test_bars_describe_themselves() -> None:
    assert bars({"lr": 0.6, "seed": 0.05}, "share", percent=True)["description"] == "lr: 60%; seed: 5%"


@pytest.mark.parametrize(
    ("scale", "values", "shown", "never"),
    [
        ("linear", [0.0, 0.003], "0.0005", "e-"),
        ("linear", [0.0, 0.0003], "1e-4", "0.0"),
        ("log", [0.0001, 3.0], "1e-2", "0.0"),
        ("log", [0.002, 3.0], "0.01", "e-"),
    ],
)
def test_the_labels_of_an_axis_have_one_notation(scale: str, values: list[float], shown: str, never: str) -> None:
    import vl_convert

    spec = chart(Axis("step"), Axis("LR", scale), [Line("lr", [0, 1], values)])
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", vl_convert.vegalite_to_svg({**spec, "height": 400}))
    assert shown in labels
    assert not [label for label in labels if never in label and not label.endswith("LR")]
