"""Configs of earlier runs, whose keys have other names now."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf


def as_now(config: DictConfig) -> DictConfig:
    """Return the config of an earlier run with the keys of now.

    `data.augment` became the group `augment`, and the callback `Throughput` became `signals.machine`.
    """
    before: Any = config.data.pop("augment", None) if isinstance(config.get("data"), DictConfig) else None
    if isinstance(before, DictConfig) and any(before.values()):
        config.augment = {"flip_crop": {"_target_": "lrflow.augment.FlipCrop", "flip": 0, "crop": 0, **before}}
    callbacks: Any = config.get("callbacks")
    for name in [*callbacks] if isinstance(callbacks, DictConfig) else ():
        node = callbacks[name]
        if isinstance(node, DictConfig) and node.get("_target_") == "lrflow.callbacks.Throughput":
            del callbacks[name]
            OmegaConf.update(config, "signals.machine", True, force_add=True)
    return config
