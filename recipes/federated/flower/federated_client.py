"""The ClientApp, under the name that Flower finds in this folder."""

from lrflow.recipes.federated.flower_client import client  # type: ignore[import-not-found] # mypy knows the folder as recipes

__all__ = ["client"]
