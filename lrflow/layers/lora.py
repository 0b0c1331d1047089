"""Groups for low-rank adapters: the rules of `layers=lora`, with LoRA+'s ratio of LRs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrflow.errors import ConfigError, Problem
from lrflow.layers.parameters import Entry, Parameters
from lrflow.layers.rules import Multiple, Rule, RuleMaker, number

_ADAPTERS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")  # B A is added to a weight


@dataclass(frozen=True)
class LoRAGroups(RuleMaker):
    """LoRA+ (Hayou et al., 2024, arXiv 2402.12354): the matrices B of low-rank adapters have a higher LR than A.

    Adapters are found by peft's names of their parameters. The groups, as far as the model has parameters for them:

    - `A`: `lora_A`, at the peak;
    - `B`: `lora_B` and other vectors that are no biases or norms, at `ratio` times the peak;
    - `B/no_decay`: biases and norms that train, at the same LR without weight decay;
    - `embedding`: `lora_embedding_A` and `lora_embedding_B`, at `embedding_lr`;
    - `rest`: other matrices that train, such as a new head, at the peak.

    Args:
        ratio: LR of B over that of A; 1: plain LoRA.
        embedding_lr: peak LR of the adapters of embeddings, absolute or a multiple (`0.1x`) of the peak.

    Raises:
        ConfigError: values out of range.
    """

    ratio: float = 16.0
    embedding_lr: float | str = 1e-6

    def __post_init__(self) -> None:
        problems = []
        if not (ratio := number(self.ratio)) or ratio < 0:
            problems.append(Problem("layers.ratio", "expected a number above 0", self.ratio))
        try:
            Rule("embedding", match="*", lr=self.embedding_lr)
        except ConfigError as error:
            problems += [Problem("layers.embedding_lr", one.message, one.value) for one in error.problems]
        if problems:
            raise ConfigError(problems)

    def rules_of(self, parameters: Parameters) -> list[Rule]:
        """Return the rules for the parameters of a model.

        Raises:
            ConfigError: no parameter of an adapter trains.
        """
        trained = [entry for entry in parameters.entries if entry.trainable]
        if not any(_part(entry) for entry in trained):
            adapters = any(_part(entry) for entry in parameters.entries)
            message = "every adapter is frozen" if adapters else f"no parameter is named {' or '.join(_ADAPTERS)}"
            hint = "model=huggingface model.lora.rank=8 adds adapters; without them take layers=no_decay"
            raise ConfigError([Problem("layers", f"the model has no LoRA to train: {message}", ..., hint)])
        groups: dict[str, list[Entry]] = {"A": [], "B": [], "B/no_decay": [], "embedding": [], "rest": []}
        for entry in trained:
            groups[_group_of(entry)].append(entry)
        settings: dict[str, dict[str, Any]] = {
            "B": {"lr": Multiple(self.ratio)},
            "B/no_decay": {"lr": Multiple(self.ratio), "weight_decay": 0.0},
            "embedding": {"lr": self.embedding_lr},
        }
        return [
            Rule(name, parameters=[entry.parameter for entry in members], **settings.get(name, {}))
            for name, members in groups.items()
            if members
        ]


def _part(entry: Entry) -> str | None:
    """Return the part of an adapter that a parameter is, by its name: `lora_A`, ...; None: of no adapter."""
    words = {word for place in entry.places for word in place.name.split(".")}
    return next((part for part in _ADAPTERS if part in words), None)


def _group_of(entry: Entry) -> str:
    part = _part(entry)
    if part and "embedding" in part:
        return "embedding"
    if part == "lora_A":
        return "A"
    if part == "lora_B" and entry.parameter.ndim > 1:
        return "B"
    if entry.parameter.ndim > 1:
        return "rest"
    return "B/no_decay" if entry.kinds & {"bias", "norm"} else "B"
