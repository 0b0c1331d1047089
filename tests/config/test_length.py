from __future__ import annotations

import pytest

from lrflow.config import compose, declared_horizon

# 1,797 digits less 180 for validation and 360 for the test: 1,257 in batches of 64 are 20.
TABLE = {
    (): (400, 20),
    ("trainer.max_epochs=3",): (60, 20),
    ("trainer.max_steps=50",): (50, 20),
    ("trainer.max_epochs=null", "trainer.max_steps=70"): (70, 20),
    ("data.drop_last=true",): (380, 19),
    ("data.batch_size=100", "trainer.max_epochs=1"): (13, 13),
    ("data.val_size=0", "data.test_size=0", "trainer.max_epochs=1"): (29, 29),
    ("trainer.accumulate_grad_batches=3", "trainer.max_epochs=1"): (7, 7),
    ("trainer.limit_train_batches=5", "trainer.max_epochs=2"): (10, 5),
    ("trainer=ddp", "trainer.max_epochs=1"): (10, 10),
    ("trainer=multi_node", "trainer.max_epochs=1"): (5, 5),
    ("trainer.devices=[0,1]", "trainer.max_epochs=1"): (10, 10),
    ("data=fashion_mnist", "trainer.max_epochs=1"): (429, 429),
    ("task=plan", "horizon.steps=1000", "schedule.warmup=10%"): (1000, None),
    ("task=plan", "horizon.steps=1000", "horizon.steps_per_epoch=10"): (1000, 10),
}


@pytest.mark.parametrize("overrides", TABLE, ids=" ".join)
def test_steps_of_a_run(overrides: tuple[str, ...]) -> None:
    horizon = declared_horizon(compose(overrides))
    assert horizon is not None
    assert (horizon.steps, horizon.steps_per_epoch) == TABLE[overrides]


@pytest.mark.parametrize("overrides", [["trainer.devices=auto"], ["data.facts.examples=null"], ["data.facts=null"]])
def test_length_is_unknown_before_the_data_is_read(overrides: list[str]) -> None:
    fixed = ["model.shape=[1,8,8]", "model.outputs=10", "model.loss=cross_entropy"]
    assert declared_horizon(compose([*overrides, *fixed])) is None
