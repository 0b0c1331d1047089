"""The horizon equals the number of steps that Lightning makes."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from lrflow.schedules import Horizon

GRID = list(product([1, 2, 3, 8], [False, True], [None, 5, 21], [None, 4, 30], [1, 3]))[::5]
"""Every fifth of all combinations, which has every pair of values of two options."""


@pytest.mark.parametrize("batch_size", [16, 104])
def test_it_equals_lightnings_estimate(batch_size: int, prepare: Any, points: Any, tmp_path: Path) -> None:
    """Varies accumulation, drop_last, max_steps, limit_train_batches and epochs; 104 examples."""
    for accumulate, drop_last, max_steps, limit, epochs in GRID:
        options = {"accumulate": accumulate, "drop_last": drop_last, "max_steps": max_steps, "max_epochs": epochs}
        run = prepare(tmp_path, batch_size=batch_size, limit_train_batches=limit, **options)
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=epochs, max_steps=max_steps or -1, accumulate_grad_batches=accumulate,
            limit_train_batches=limit or 1.0, logger=False, enable_checkpointing=False, use_distributed_sampler=False,
        )  # fmt: skip
        trainer.strategy.connect(run.module)
        trainer._data_connector.attach_data(run.module, datamodule=run.data)
        assert run.horizon.steps == trainer.estimated_stepping_batches, (options, limit)

        counted = Horizon.count(
            examples=104,
            batch_size=batch_size,
            drop_last=drop_last,
            accumulate=accumulate,
            max_epochs=epochs,
            max_steps=max_steps,
            limit_batches=limit or 1.0,
        )
        assert counted.same_length(run.horizon), (options, limit)


@pytest.mark.parametrize("accumulate", [1, 3, 8])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("max_steps", [None, 4])
@pytest.mark.parametrize("limit", [None, 5])
def test_it_equals_lightnings_number_of_steps(
    accumulate: int, drop_last: bool, max_steps: int | None, limit: int | None, train: Any, tmp_path: Path
) -> None:
    options = {"accumulate": accumulate, "drop_last": drop_last, "max_steps": max_steps, "max_epochs": 2}
    run = train(tmp_path, limit_train_batches=limit, save_every=None, val_size=0, **options)
    assert run.trainer.global_step == run.horizon.steps
    assert len(run.record.rates) == run.horizon.steps
