"""The Lightning module around a plain network, and loading initial weights from a checkpoint or state dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lrflow.errors import ConfigError, Problem
from lrflow.layers.groups import nearest_names
from lrflow.layers.rules import compile_pattern
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.objective import Collected, Criterion, default_metrics
from lrflow.wording import joined

_INNER_KEYS = ("state_dict", "model")
"""Keys under which files hold the tensors, if not at the top level."""

_WRAPPERS = ("model.", "module.", "_orig_mod.")
"""Prefixes that wrappers add to names: `Supervised` and many others, DistributedDataParallel, torch.compile."""


class Supervised(pl.LightningModule):
    """Trains any network on (input, target) batches, by classification or regression.

    Logs `val/loss` with `val/accuracy` (classification), `val/mae` and `val/r2` (regression), or `val/perplexity` and
    `val/bits_per_byte` (language models), and the same under `test/`. The training loss is returned, not logged:
    `Signals` collects it without a synchronization.

    Args:
        model: maps a batch of inputs to logits of shape [batch, outputs], or to predictions.
        loss: the name of a loss in `lrflow.objectives.LOSSES`, or the loss itself. Class numbers have the shape
            [batch], other targets that of the outputs.
        metrics: further metrics by name, one of each for `val` and for `test`; they replace a default of their name.
    """

    def __init__(
        self, model: nn.Module, loss: str | Criterion, metrics: Mapping[str, Mapping[str, Collected]] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = Criterion.named(loss) if isinstance(loss, str) else loss
        self._scores = nn.ModuleDict({stage: default_metrics(self.loss.chosen.logged) for stage in ("val", "test")})
        for stage, own in (metrics or {}).items():
            self._scores[stage].update(own)  # type: ignore[operator]

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this plain string about forty times per step, and torch's __setattr__ searches parameters,
        # buffers and submodules each time: a tenth of the cost of a small step.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's output for a batch."""
        return self.model(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch."""
        inputs, target = batch
        return self.loss(self.model(inputs), target)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the validation metrics; several loaders count as one set."""
        self._count("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the test metrics; several loaders count as one set."""
        self._count("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics over the whole set, reduced over devices."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics over the whole set, reduced over devices."""
        self._report("test")

    def count(self, stage: str, output: Tensor, target: Tensor) -> None:
        """Add the network's output for a batch to the metrics of `val` or `test`."""
        for name, metric in self._metrics(stage):
            if isinstance(metric, Collected):
                metric.update(output, target)
            elif name == "loss":
                self.loss.add_to(metric, output, target)
            elif name == "accuracy":
                metric.update(*self.loss.accuracy(output, target))
            else:
                rows, predicted = len(output), self.loss.predicted(output)
                metric.update(predicted.reshape(rows, -1).contiguous(), target.reshape(rows, -1))

    def scores(self, stage: str) -> dict[str, Tensor]:
        """Return the metrics of `val` or `test` by their full names, and reset them."""
        values = {}
        for name, metric in self._metrics(stage):
            try:
                value = metric.compute()
            except ValueError:  # R2 of a single example is not defined
                value = torch.tensor(torch.nan, device=self.device)
            values[f"{stage}/{name}"] = value
            if name == "loss":
                more = self.loss.chosen.of_loss(float(value), stage) if self.loss.chosen.per_token else {}
                values |= {f"{stage}/{name}": torch.tensor(one, device=value.device) for name, one in more.items()}
            metric.reset()
        return values

    def _count(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        inputs, target = batch
        self.count(stage, self.model(inputs), target)

    def _report(self, stage: str) -> None:
        for name, value in self.scores(stage).items():
            self.log(name, value, sync_dist=True)

    def _metrics(self, stage: str) -> list[tuple[str, Any]]:
        scores = self._scores[stage]
        assert isinstance(scores, nn.ModuleDict)
        return list(scores.items())


def planned_module(module: pl.LightningModule) -> nn.Module:
    """Return the network whose parameter names the plan uses: without the `Supervised` wrapper, if there is one."""
    return module.model if isinstance(module, Supervised) else module


def load_weights(model: nn.Module, path: Path, fresh: Sequence[str] = ()) -> str:
    """Load the parameters and buffers of a file into a model.

    Names are compared without a wrapper's prefix that all of them share (`model.`, `module.`). A tensor that does not
    fit is an error, unless `fresh` matches its name.

    Args:
        model: changed in place.
        path: a checkpoint or a state dict, as torch saves it.
        fresh: patterns of names that are not loaded, globs or `re:`; the model keeps its own tensors of these names.

    Returns:
        A line that counts the loaded tensors, those of the model that stayed fresh, and those of the file not used.

    Raises:
        ConfigError: lists tensors that are missing, have another shape, or do not exist in the model.
        BrokenCheckpointError: the file cannot be read, or holds more than plain data and tensors.
    """
    given, own = _unwrapped(_read(path), model.state_dict()), model.state_dict()
    patterns = {text: compile_pattern(text) for text in fresh}
    names = {*given, *own}
    problems = [
        Problem(
            "model.fresh", "matches no tensor of the model or of the file", text, nearest_names(text, sorted(names))
        )
        for text, pattern in patterns.items()
        if not any(map(pattern.fullmatch, names))
    ]
    names -= {name for name in names if any(pattern.fullmatch(name) for pattern in patterns.values())}
    for difference, tensors in _differences(given, own, names).items():
        if tensors:
            message = f"{difference}: {joined(tensors, 7)}"
            problems.append(Problem("model.init_from", message, str(path), "model.fresh leaves tensors out by name"))
    if problems:
        raise ConfigError(problems)
    model.load_state_dict({**own, **{name: given[name] for name in names}})
    stayed, unused = [name for name in own if name not in names], [name for name in given if name not in own]
    summary = f"weights of {path}: loaded {len(names)} of {len(own)} tensors"
    summary += f"; {len(stayed)} stayed fresh ({joined(stayed, 7)})" if stayed else ""
    return summary + (f"; {len(unused)} of the file unused ({joined(unused, 7)})" if unused else "")


def _read(path: Path) -> dict[str, Tensor]:
    content: Any = read_checkpoint(path, map_location="cpu")
    inner = next((content[key] for key in _INNER_KEYS if isinstance(content.get(key), Mapping)), content)
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ConfigError([Problem("model.init_from", "holds no tensors by name", str(path))])
    return tensors


def _unwrapped(given: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file by the model's names for them."""
    while wrapper := next((one for one in _WRAPPERS if all(name.startswith(one) for name in given)), None):
        if all(name.startswith(wrapper) for name in own):
            break
        given = {name.removeprefix(wrapper): value for name, value in given.items()}
    return given


def _differences(given: Mapping[str, Tensor], own: Mapping[str, Tensor], names: set[str]) -> dict[str, list[str]]:
    """Return the names of tensors that do not fit, by the kind of difference."""
    both = [name for name in own if name in names and name in given]
    return {
        "the file lacks tensors of the model": [name for name in own if name in names and name not in given],
        "tensors have another shape in the file": [
            f"{name} {list(own[name].shape)} ({list(given[name].shape)} in the file)"
            for name in both
            if own[name].shape != given[name].shape
        ],
        "the model lacks tensors of the file": [name for name in given if name in names and name not in own],
    }
