"""What the recipes' READMEs say they measured is what the committed runs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.recipes.study import HERE, Study
from benchmarks.recipes.table import marks, table
from lrflow.cli.arguments import parse
from lrflow.config import compose

STUDIES = sorted(HERE.glob("*.yaml"))


@pytest.fixture(params=STUDIES, ids=[path.stem for path in STUDIES])
def study(request: pytest.FixtureRequest) -> Study:
    return Study.read(request.param)


@pytest.fixture
def measured(study: Study) -> Study:
    """One whose runs were made; a README says of any other that they were not."""
    if not study.runs:
        assert f"`{study.name}` is not measured yet" in (study.recipe / "README.md").read_text()
        pytest.skip(f"{study.name} is not measured yet")
    return study


def test_every_run_was_made(measured: Study) -> None:
    assert not measured.missing()


def test_the_readme_has_the_table(measured: Study) -> None:
    first, last = marks(measured)
    assert f"{first}\n{table(measured)}\n{last}" in (measured.recipe / "README.md").read_text()


def test_its_command_and_its_picture_stand_there(measured: Study) -> None:
    readme = (measured.recipe / "README.md").read_text()
    assert measured.command in readme
    picture = measured.picture.get("file", "result.png")
    assert (measured.recipe / picture).is_file()
    assert f"]({picture})" in readme


def test_its_runs_can_be_made_again(measured: Study) -> None:
    for variant in measured.variants:
        for run in measured.reported(variant)[:1]:
            compose(parse(run["overrides"]).overrides)


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(Study, "data", property(lambda self: tmp_path / "a.json"))
    tune = {"key": "optimizer.lr", "values": [0.1, 1], "metric": "val/accuracy"}
    return Study("a", {"x": ["model=cnn"]}, {"accuracy": "test/accuracy"}, seeds=2, tune=tune)


def test_a_value_is_chosen_on_one_seed_and_reported_on_others(tuned: Study, tmp_path: Path) -> None:
    made = []
    while missing := tuned.missing():
        job = missing[0]
        made.append(job.overrides)
        good = "optimizer.lr=1" in job.overrides
        metrics = {"val/accuracy": 0.9 if good else 0.5, "test/accuracy": 0.8 + job.seed / 10}
        tuned.keep(job, {"status": "finished", "seconds": 1.0, "metrics": metrics})
    assert made == [
        ["model=cnn", "optimizer.lr=0.1", "seed=0"],
        ["model=cnn", "optimizer.lr=1", "seed=0"],
        ["model=cnn", "optimizer.lr=1", "seed=1"],
        ["model=cnn", "optimizer.lr=1", "seed=2"],
    ]
    assert tuned.values("x", "test/accuracy") == pytest.approx([0.9, 1.0])
    assert "| x | 1 | 0.9500 ± 0.0707 | 2 | 1 |" in table(tuned)
    assert (tmp_path / "a.json").is_file()


def test_a_value_with_which_it_diverges_is_not_chosen(tuned: Study) -> None:
    first, second = tuned.missing()
    tuned.keep(first, {"status": "finished", "seconds": 1.0, "metrics": {"val/accuracy": 0.1}})
    tuned.keep(second, {"status": "failed", "seconds": 1.0, "metrics": {}})
    assert tuned.chosen("x") == "0.1"
