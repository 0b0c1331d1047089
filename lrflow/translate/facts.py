"""What a config of another tool does not say, and an LR may depend on: devices and examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lrflow.errors import ConfigError, Problem

_WHY = {
    "--devices": ("devices", "the number of devices (processes) on which it was trained"),
    "--samples": ("samples", "the number of training examples"),
}


@dataclass(frozen=True)
class Facts:
    """What the user says of a run besides its config.

    Args:
        devices: processes that train together; None: not said.
        samples: training examples; None: not said.
        env: the environment, in a file with the hyperparameters of several; None: not said.
    """

    devices: int | None = None
    samples: int | None = None
    env: str | None = None

    def need(self, *flags: str, reason: str) -> None:
        """Require facts.

        Args:
            flags: `--devices`, `--samples`.
            reason: what depends on them, as a sentence without a full stop.

        Raises:
            ConfigError: some are missing; one message names them all.
        """
        missing = [flag for flag in flags if getattr(self, _WHY[flag][0]) is None]
        if missing:
            wanted = " and ".join(_WHY[flag][1] for flag in missing)
            hint = "give " + " ".join(f"{flag} N" for flag in missing)
            raise ConfigError([Problem(" ".join(missing), f"{reason}: the file does not say {wanted}", hint=hint)])

    def steps_per_epoch(self, batch: int, accumulated: int = 1, drop_last: bool = False) -> int:
        """Return the optimizer steps of an epoch, of which the last may be of fewer batches.

        Args:
            batch: examples per device.
            accumulated: batches per optimizer step.
            drop_last: whether an incomplete batch is left out.
        """
        share = (self.samples or 0) / (batch * (self.devices or 1))
        batches = math.floor(share) if drop_last else math.ceil(share)
        return max(1, math.ceil(batches / accumulated))
