"""Facts of the data that the config leaves open, and models that do not fit them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrflow.config import compose
from lrflow.config.objective import loss_of
from lrflow.errors import ConfigError

TABLE = ["data=table", "model=table", "data.target=y"]


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    rows = "".join(f"{row},{'abc'[row % 3]},{row / 7}\n" for row in range(200))
    (tmp_path / "x.csv").write_text(f"n,c,y\n{rows}")
    return f"data.file={tmp_path / 'x.csv'}"


def test_a_table_tells_its_facts_before_any_data_are_read_by_torch(numbers: str) -> None:
    config = compose([*TABLE, numbers, "data.val_size=10%", "data.test_size=20"])
    facts = config.data.facts
    assert facts is not None
    assert (facts.examples, facts.shape, facts.outputs, facts.cardinalities) == (200, [2], 1, [4])
    assert (config.data.val_size, config.data.test_size) == (20, 20)
    loss = loss_of(config)
    assert loss is not None
    assert loss.units == facts.units
    assert config.source.data.facts.examples == 200  # the config of the run has them
    own = compose([*TABLE, numbers, "data.facts.loss=huber"])
    assert str(loss_of(own)) == "huber"
    counts = compose([*TABLE, numbers, "model.loss=poisson_nll"])
    assert loss_of(counts).units is None  # type: ignore[union-attr]


def test_a_share_of_examples_is_counted_for_any_data() -> None:
    config = compose(["data.val_size=10%", "data.test_size=0.25"])
    assert (config.data.val_size, config.data.test_size) == (180, 449)


WRONG = {
    "model=mlp": ("model", "model=table embeds them; or data.categories=one_hot"),
    "model.cardinalities=[9]": ("model.cardinalities", "leave it out"),
    "trainer.precision=bf16-true": ("trainer.precision", "16-mixed and bf16-mixed do not"),
    "model.loss=cross_entropy": ("model.loss", "these fit: mse"),
    "data.target=x": ("data.target", "known: n, c, y"),
    "data.file=gone.parquet": ("data.file", None),
    "data.val_size=190": ("data.val_size", None),
}


@pytest.mark.parametrize("word", WRONG)
def test_what_does_not_fit_is_the_only_problem(word: str, numbers: str) -> None:
    key, hint = WRONG[word]
    words = {one.partition("=")[0]: one for one in (*TABLE, numbers, word)}
    with pytest.raises(ConfigError) as raised:
        compose([*words.values()])
    (problem,) = raised.value.problems
    assert problem.key == key
    assert hint is None or hint in str(problem.hint)
