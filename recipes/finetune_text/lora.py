"""The classifier of `model.py` with low-rank adapters."""

from __future__ import annotations

from peft import LoraConfig, inject_adapter_in_model

from .model import SentenceClassifier


class LoRAClassifier(SentenceClassifier):
    """Trains low-rank adapters on queries and values instead of the encoder (LoRA; Hu et al., 2021, arXiv 2106.09685).

    Args:
        outputs: number of classes.
        dropout: dropout probability in the encoder and before the head.
        rank: rank of the adapters; they are scaled by 2 at every rank.
    """

    def __init__(self, outputs: int, dropout: float = 0.1, rank: int = 8) -> None:
        super().__init__(outputs, dropout)
        adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["query", "value"])
        inject_adapter_in_model(adapters, self.backbone)  # freezes the rest of the backbone
