"""`Result`: a trained run for Python: its metrics, folder, plan, config, and its model with the trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from lrflow.config import Config, load_config, validate
from lrflow.errors import LrflowError
from lrflow.outcome import Outcome
from lrflow.plan import Plan
from lrflow.remote import download, is_url
from lrflow.runs import OUTPUT, RunFolder, find_checkpoint
from lrflow.tasks.evaluate import find_weights
from lrflow.tasks.plan import read_plan
from lrflow.tasks.trained import load_module
from lrflow.training import planned_module
from lrflow.training.state import preserve_random_state


@dataclass(frozen=True)
class Result:
    """A run that has been trained.

    Args:
        folder: its run folder.
        outcome: how it ended.
    """

    folder: Path
    outcome: Outcome

    @classmethod
    def read(cls, run: str | Path, output: str | Path = OUTPUT) -> Result:
        """Return the result of a run, as `lrflow.load` does."""
        run = download(str(run), "run") if is_url(str(run)) else run
        folder = RunFolder.of(find_checkpoint(str(run), Path(output), "run"))
        outcome = Outcome.from_summary(folder.read_summary(), folder.path)
        if outcome is None:
            raise LrflowError(f"{folder.path}: this run has not ended\n    train('resume={folder.path}') continues it")
        return cls(folder.path, outcome)

    @property
    def metrics(self) -> dict[str, float]:
        """The last metrics by name."""
        return dict(self.outcome.metrics)

    @cached_property
    def config(self) -> Config:
        """The config of the run."""
        return validate(load_config(self._saved.config))

    @cached_property
    def plan(self) -> Plan:
        """The plan that the run executed."""
        return read_plan(str(self._saved.plan), self.folder.parent)

    @cached_property
    def model(self) -> nn.Module:
        """The network with the last weights, in evaluation mode on the CPU."""
        return self.load_model("last")

    def load_model(self, weights: str = "best") -> nn.Module:
        """Return the network with saved weights, in evaluation mode on the CPU.

        Args:
            weights: `best`, `last`, or a checkpoint.

        Raises:
            LrflowError: the run has no such weights.
        """
        checkpoint = find_weights(str(self._saved.path), weights, self.folder.parent)
        with preserve_random_state():
            return planned_module(load_module(self.config, checkpoint))

    @property
    def _saved(self) -> RunFolder:
        """The run folder.

        Raises:
            LrflowError: there is none.
        """
        if not self.folder.exists():
            raise LrflowError(f"{self.folder}: there is no such run folder; trainer.fast_dev_run=true writes none")
        return RunFolder(self.folder)

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name}={value:.4g}" for name, value in self.outcome.metrics.items())
        return f"Result({self.outcome.status}, {metrics}, folder={str(self.folder)!r})"
