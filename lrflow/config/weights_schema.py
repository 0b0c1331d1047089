"""Schemas of the tasks that use the weights of a run: export and predict; and the names of all tasks that do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lrflow.config import types as f
from lrflow.config.schema import Section

OF_A_RUN = ("evaluate", "export", "merge", "predict")
"""Tasks that use the config and the weights of an earlier run, `task.from`."""

EXPORTS: dict[str, tuple[str, ...]] = {
    "safetensors": ("safetensors",),
    "state_dict": (),
    "torch_export": (),
    "onnx": ("onnx", "onnxscript"),
}
"""Formats of `task=export`, each with the packages that it needs besides torch."""

TABLES: dict[str, tuple[str, ...]] = {"csv": (), "npz": (), "parquet": ("pyarrow",)}
"""Formats of `task=predict`, each with the packages that it needs."""


class Export(Section):
    """Export the weights of a trained run for use without lrflow."""

    name: Literal["export"]
    source: f.Text = Field("last", alias="from")
    """Run folder, checkpoint, or `last`: the newest run."""
    weights: f.Text = "best"
    """`best`, `last`, or a checkpoint."""
    to: Annotated[str, f.one_of(*EXPORTS)] = "safetensors"
    """Format: the weights (safetensors, state_dict), or the network with its preprocessing (torch_export, onnx)."""


class Predict(Section):
    """Predict a part of the data, or inputs of the user's own, with a trained run."""

    name: Literal["predict"]
    source: f.Text = Field("last", alias="from")
    """Run folder, checkpoint, or `last`: the newest run."""
    weights: f.Text = "best"
    """`best`, `last`, or a checkpoint."""
    split: Annotated[str, f.one_of("train", "val", "test")] = "test"
    """Part of the data that is predicted, in its own order."""
    inputs: f.Text | None = None
    """File or folder of inputs that are predicted instead: .npy, .npz, .csv, .pt."""
    to: Annotated[str, f.one_of(*TABLES)] = "csv"
    """Format of the predictions."""
    chunk: f.Count = 4096
    """Examples between two saves; a prediction that was killed goes on after the last one."""
