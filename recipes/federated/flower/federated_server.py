"""The ServerApp, under the name that Flower finds in this folder."""

from lrflow.recipes.federated.flower_server import server  # type: ignore[import-not-found] # mypy knows the folder as recipes

__all__ = ["server"]
