"""Low-rank adapters in a pretrained network (LoRA; Hu et al., 2021): their settings, how they are put in and merged."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.limits import number, outside, whole

LORA = {"rank": 8, "alpha": None, "dropout": 0.0, "targets": None}
"""The settings of adapters, with their defaults."""

_LIMITS = {
    "rank": whole(1, 1 << 16),
    "alpha": number(0, above=True).or_null(),
    "dropout": number(0, 1, below=True),
}


def lora_problems(lora: Mapping[str, Any]) -> list[Problem]:
    """Return the problems of the settings of adapters."""
    problems = []
    for key, value in lora.items():
        if key not in LORA:
            problems.append(
                Problem(f"model.lora.{key}", f"expected one of {', '.join(LORA)}", value, did_you_mean(key, LORA))
            )
    return problems + outside(_LIMITS, lora, "model.lora")


def adapt(body: Any, lora: Mapping[str, Any]) -> None:
    """Put adapters into a body, and freeze the rest of it."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as OF_PEFT

    given = {**LORA, **lora}
    targets: Any = given["targets"] or OF_PEFT.get(body.config.model_type, "all-linear")
    adapters = LoraConfig(
        r=given["rank"],
        lora_alpha=2 * given["rank"] if given["alpha"] is None else given["alpha"],
        lora_dropout=given["dropout"],
        target_modules=list(targets) if isinstance(targets, list | tuple | set) else targets,
    )
    try:
        with warnings.catch_warnings(action="ignore"):  # GPT-2's transposed layers are noticed by peft itself
            inject_adapter_in_model(adapters, body)
    except (ValueError, TypeError) as error:
        names = sorted({path.rpartition(".")[2] for path, one in body.named_modules() if isinstance(one, nn.Linear)})
        reason = str(error).strip().partition("\n")[0]
        problem = Problem("model.lora.targets", reason, targets, f"its linear layers are {', '.join(names)}")
        raise ConfigError([problem]) from error


def merge(module: nn.Module) -> None:
    """Add the adapters within a module to the weights of their layers, and leave the plain layers."""
    child: Any
    for name, child in [*module.named_children()]:
        base = getattr(child, "get_base_layer", None)
        if base is None:
            merge(child)
        else:
            child.merge()
            setattr(module, name, base())
