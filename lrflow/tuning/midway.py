"""Starting a sweep in the middle of a run: with all that its checkpoint holds, at the first step of another plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lrflow.layers import Group, merge
from lrflow.plan import Plan
from lrflow.training.checkpoint_io import AtomicCheckpointIO
from lrflow.training.regroup import regroup


class RestartingCheckpointIO(AtomicCheckpointIO):
    """Reads a checkpoint for a training that begins where it stands, but counts its own steps from 0.

    Weights, buffers, the optimizer's state, what the data module and the module have saved, and the place in the data
    are the checkpoint's; the plan is the sweep's. The generators are not put back: each sweep draws from its own seed.

    Args:
        groups: that the optimizer is made of; its state is fitted to them.
        plan: of the sweep.
    """

    def __init__(self, groups: Sequence[Group], plan: Plan) -> None:
        merged = merge(groups)
        self._groups = [[name for group in members for name, _ in group.parameters] for members in merged]
        self._routes = [members[0].route for members in merged]
        self._fingerprint = plan.fingerprint

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read it, and turn the counters of optimizer steps back."""
        content = super().load_checkpoint(path, map_location, weights_only)
        loops = content["loops"]["fit_loop"]
        steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        steps["total"] = steps["current"] = {"ready": 0, "completed": 0}
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = 0
        content["global_step"] = 0
        content["lr_schedulers"] = [{"step": 0, "fingerprint": self._fingerprint}]
        (saved,), before = content["optimizer_states"], content["lrflow"]["groups"]
        content["optimizer_states"] = [regroup(saved, before, self._groups, self._routes)]
        return content
