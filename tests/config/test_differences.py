"""Composing a config within a job of Hydra, as a module of a run does with `lrflow.plan`."""

from __future__ import annotations

from hydra.core.global_hydra import GlobalHydra

from lrflow.config.composition.compose import composer
from lrflow.config.differences import _own_hydra


def test_a_job_of_hydra_goes_on_after_another_composition() -> None:
    """Problems of the job's config are placed by its loader, which would else be gone."""
    with composer():
        running = GlobalHydra.instance().config_loader()
        with _own_hydra(), composer():
            assert GlobalHydra.instance().config_loader() is not running
        assert GlobalHydra.instance().config_loader() is running
