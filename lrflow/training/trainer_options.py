"""The options of a run's trainer, from its config: strategy, plugins and profiler are built here."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins import CheckpointIO, Precision
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.strategies import Strategy

from lrflow.config import Config, instantiate
from lrflow.config.schemas.objects import Node
from lrflow.config.schemas.types import seconds_of
from lrflow.errors import ConfigError, Problem

PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}

_SAME = (
    "accelerator devices num_nodes precision accumulate_grad_batches limit_train_batches limit_val_batches "
    "deterministic loop"
)
"""Options that `build_trainer` takes as the config has them."""


def lightning_options(config: Config) -> dict[str, Any]:
    """Return the options of `build_trainer`; the length of the run is set by `Trainer.run_for`.

    Raises:
        ConfigError: `trainer.strategy` or `trainer.plugins` build something else; lists all problems.
    """
    trainer = config.trainer
    options = {name: getattr(trainer, name) for name in _SAME.split()}
    options["timeout"] = seconds_of(trainer.timeout)
    if guard := config.guard:
        options |= guard.of_lightning  # for modules that clip gradients themselves, and read it
    problems: list[Problem] = []
    options["strategy"] = trainer.strategy
    if isinstance(trainer.strategy, Node):
        options["strategy"] = instantiate(trainer.strategy.node(), "trainer.strategy")
        if not isinstance(options["strategy"], Strategy):
            message = "builds no strategy, such as pytorch_lightning.strategies.DDPStrategy"
            problems.append(Problem("trainer.strategy._target_", message, trainer.strategy.target))
    plugins = []
    for index, node in enumerate(trainer.plugins):
        key = f"trainer.plugins[{index}]"
        plugins.append(instantiate(node.node(), key))
        if isinstance(plugins[-1], CheckpointIO):
            message = "lrflow writes checkpoints itself: whole or not at all, and checked when they are read"
            problems.append(Problem(f"{key}._target_", message, node.target, "leave it out"))
    if any(isinstance(plugin, Precision) for plugin in plugins) and str(trainer.precision) == "32-true":
        del options["precision"]  # the default, which the plugin replaces
    if problems:
        raise ConfigError(problems)
    switches = {name: True for name in ("sync_batchnorm", "detect_anomaly", "benchmark") if getattr(trainer, name)}
    return options | switches | ({"plugins": plugins} if plugins else {}) | dict(trainer.lightning)


def profiler_of(config: Config, folder: Path) -> dict[str, Any]:
    """Return the option with the profiler of a run, which writes `profile` files into its folder; empty without one."""
    name = config.trainer.profiler
    return {} if name is None else {"profiler": PROFILERS[name](dirpath=folder, filename="profile")}


class NoProfiler(Profiler):
    """Measures nothing, at less cost than Lightning's own (2.6.6), which enters a generator 37 times per step."""

    def start(self, action_name: str) -> None:
        """Do nothing."""

    def stop(self, action_name: str) -> None:
        """Do nothing."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Return a context that does nothing."""
        return _NOTHING


_NOTHING = nullcontext()
