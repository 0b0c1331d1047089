"""Schemas and checks of the group `clip`, and Lightning's spelling of it in the group `trainer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from lrflow.config.schemas.objects import Node, Section
from lrflow.config.schemas.run import Trainer
from lrflow.errors import Problem

NORM, VALUE = "lrflow.clip.Norm", "lrflow.clip.Value"

LIGHTNINGS = "trainer.gradient_clip_val"
"""Lightning's spelling of a guard."""

ARGUMENTS = {NORM: "max_norm", VALUE: "clip_value"}
"""The argument of each guard that Lightning has too, as `gradient_clip_val`."""


class NoClip(Section):
    """No guard: the optimizer uses the gradients as they are."""


class Clip(Node):
    """A guard, which clips the gradients of a step or skips it; see `lrflow.clip`."""

    @property
    def of_lightning(self) -> dict[str, Any]:
        """Arguments of Lightning's Trainer that clip alike; empty if it has none."""
        name = ARGUMENTS.get(self.target)
        if name is None:
            return {}
        algorithm = "norm" if self.target == NORM else "value"
        return {"gradient_clip_val": self.node().get(name, 1.0), "gradient_clip_algorithm": algorithm}


def _kind(value: Any) -> str:
    has_target = "_target_" in value if isinstance(value, Mapping) else isinstance(value, Clip)
    return "<some>" if has_target else "<none>"


AnyClip = Annotated[Annotated[Clip, Tag("<some>")] | Annotated[NoClip, Tag("<none>")], Discriminator(_kind)]


def clip_of(clip: AnyClip, trainer: Trainer) -> Clip | None:
    """Return the guard of a run: that of the group, or the one that Lightning's spelling means; None: there is none."""
    if isinstance(clip, Clip):
        return clip
    if trainer.gradient_clip_val is None:
        return None
    target = NORM if trainer.gradient_clip_algorithm == "norm" else VALUE
    return Clip.model_validate({"_target_": target, ARGUMENTS[target]: trainer.gradient_clip_val})


def check_clip(clip: AnyClip, trainer: Trainer) -> Iterator[Problem]:
    """Yield a problem for each setting of a guard at odds with the trainer."""
    if not isinstance(clip, Clip):
        return
    kind = clip.target.rpartition(".")[2]
    if trainer.gradient_clip_val is not None:
        message = f"clips a second time: clip is {kind} already"
        yield Problem(LIGHTNINGS, message, trainer.gradient_clip_val, "leave out one of the two")
    if trainer.strategy_name.startswith(("fsdp", "deepspeed")) and not clip.of_lightning:
        message = f"shards the gradients, and {kind} needs whole ones"
        yield Problem("trainer.strategy", message, trainer.strategy_name, "trainer.strategy=ddp, or clip=norm")
