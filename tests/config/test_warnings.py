"""Lines on settings that have no effect in a task."""

from __future__ import annotations

from lrflow.config import compose
from lrflow.config.warnings import unused_by_search


def test_a_search_for_the_lr_names_what_it_does_not_use() -> None:
    assert unused_by_search(compose(["task=find"])) is None
    line = unused_by_search(compose(["task=find", "callbacks=[early_stopping,timer]", "trainer.max_time=1 hour"]))
    assert line is not None
    assert line.startswith("task=find does not use callbacks.early_stopping, callbacks.timer, trainer.max_time:")
