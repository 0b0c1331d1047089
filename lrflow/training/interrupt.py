"""Requests to stop a run: SIGTERM, SIGUSR1 and Ctrl-C end it at a step boundary, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher


class StopRequest:
    """Records that the process was asked to stop, and by which signal.

    A second signal of the same kind ends the process at once, as without lrflow.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def exit_code(self) -> int:
        """128 plus the signal: 143 for SIGTERM, 138 for SIGUSR1, 130 for Ctrl-C."""
        return 128 + (self.signal or 0)

    def listen(self, trainer: pl.Trainer) -> None:
        """Handle SIGTERM, SIGUSR1 and SIGINT from now on, and pass them on to the processes of this node.

        Call it once training has started. It replaces Lightning's handlers, which Lightning restores at the end: those
        (2.6.6) act inside an accumulation window, which loses gradients, and under Slurm save at any moment.
        """
        if threading.current_thread() is not threading.main_thread():
            return

        def record(number: int, frame: FrameType | None) -> None:
            self.signal = number
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            launcher = trainer.strategy.launcher
            if isinstance(launcher, _SubprocessScriptLauncher):
                launcher.kill(number)

        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, record)
        connector = trainer._signal_connector
        if connector.received_sigterm:  # while the run was being set up
            self.signal, connector.received_sigterm = signal.SIGTERM, False

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Whether any process was asked to stop; the answer is the same on every rank."""
        if trainer.world_size == 1:
            return self.signal is not None
        asked = torch.tensor(self.signal or 0, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        self.signal = int(asked) or None
        return self.signal is not None
