"""A small transformer for sequences of tokens: a language model, or a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrflow.errors import ConfigError, Problem
from lrflow.limits import Limit, is_whole, number, one_of, outside, whole
from lrflow.models.drop_path import DropPath
from lrflow.objectives import CLASSES, HEADS, LANGUAGE_MODEL

_LIMITS = {
    "shape": Limit("the length of a sequence, such as [256]", lambda value: _is_length(value)),
    "outputs": whole(1),
    "vocabulary": Limit("the number of tokens, which data=text has", lambda value: is_whole(value) and value > 0),
    "head": one_of(*HEADS),
    "width": whole(1),
    "depth": whole(1),
    "heads": whole(1),
    "context": whole(1).or_null(),
    "dropout": number(0, 1, below=True),
    "drop_path": number(0, 1, below=True),
    "residual_multiplier": number(0, above=True),
    "padding": whole(0).or_null(),
}


def _is_length(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 1 and is_whole(value[0]) and value[0] > 0


class Transformer(nn.Module):
    """Pre-norm transformer (Radford et al., 2019): `embedding`, `position`, `blocks`, `norm`, `head`.

    A language model attends to the tokens before each place. A classifier attends to all tokens but padding, and its
    head gets their mean.

    Args:
        shape: [length] of a sequence.
        outputs: tokens of the vocabulary, or classes.
        vocabulary: number of different tokens; None, as of data without tokens, is an error.
        head: `language_model`: logits of the next token at each place; `classes`: logits of the class of a sequence.
        width: width of the residual stream.
        depth: number of blocks.
        heads: attention heads of each block; they divide the width.
        context: most tokens of a sequence; None: `shape`.
        dropout: probability of the dropout after the embeddings and at the end of each branch.
        drop_path: probability that a sequence skips a branch of the last block in training; that of the others is
            smaller in proportion to their depth.
        residual_multiplier: factor on the output of each branch. A model of `depth` blocks starts as one of
            `depth x residual_multiplier` blocks does, and `layers=mup` keeps the best LR of such a model (Dey et al.,
            2025, arXiv 2505.01618).
        tied: whether the head of a language model has the weights of the embedding (Press and Wolf, 2017).
        padding: token to which a classifier does not attend; None: there is none.
        qk_norm: whether LayerNorm is applied to the queries and keys of each head, which bounds the attention logits,
            so that higher LRs stay stable (Dehghani et al., 2023, arXiv 2302.05442).

    Raises:
        ConfigError: invalid arguments.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        vocabulary: int | None,
        head: str = "language_model",
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        context: int | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        tied: bool = False,
        padding: int | None = None,
        qk_norm: bool = False,
        residual_multiplier: float = 1.0,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in _LIMITS}
        problems = outside(_LIMITS, given, "model")
        if not problems:
            problems += _contradictions(shape, outputs, vocabulary, head, width, heads, context, tied)
        if problems:
            raise ConfigError(problems)
        assert vocabulary is not None
        super().__init__()
        self.context = context or shape[0]
        self.causal = head == LANGUAGE_MODEL
        self.padding = padding
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(self.context, width)
        self.dropout = nn.Dropout(dropout)
        rates = [drop_path * (index + 1) / depth for index in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, self.causal, rate, qk_norm, residual_multiplier) for rate in rates
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs, bias=not self.causal)
        self._initialise(depth * residual_multiplier)
        if tied:
            self.head.weight = self.embedding.weight

    def _initialise(self, depth: float) -> None:
        """Initialise like GPT-2 of this depth: N(0, 0.02), smaller at the end of a branch."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for name, weight in self.named_parameters():
            if name.endswith(("attention_out.weight", "mlp_out.weight")):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * depth))
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [batch, length] to logits [batch, length, vocabulary], or of classes [batch, outputs]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.embedding(tokens) + self.position(places))
        mask = None if self.causal else self._mask(tokens)
        for block in self.blocks:
            x = block(x, None if mask is None else mask[:, None, None])
        x = self.norm(x)
        if mask is not None:
            weight = mask[..., None].to(x.dtype)
            x = (x * weight).sum(1) / weight.sum(1)
        return self.head(x)

    def _mask(self, tokens: Tensor) -> Tensor:
        """Return which tokens count [batch, length]; the first one always does, so that no mean is of nothing."""
        if self.padding is None:
            return torch.ones_like(tokens, dtype=torch.bool)
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        return (tokens != self.padding) | first


class Block(nn.Module):
    """Attention, then an MLP; each reads the normalised residual stream and adds to it.

    The MLP's activation is the squared ReLU (So et al., 2021), which a CPU computes faster than GELU.

    Args:
        width: width of the residual stream.
        heads: attention heads.
        dropout: dropout probability at the end of each branch.
        causal: whether a token attends only to itself and those before it.
        drop_path: probability that a sequence skips a branch in training.
        qk_norm: whether LayerNorm is applied to the queries and keys of each head.
        residual_multiplier: factor on the output of each branch.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        causal: bool = True,
        drop_path: float = 0.0,
        qk_norm: bool = False,
        residual_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.residual_multiplier = heads, causal, residual_multiplier
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.query_norm, self.key_norm = (
            nn.LayerNorm(width // heads, bias=False) if qk_norm else nn.Identity() for _ in range(2)
        )
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path) if drop_path else None  # without it no random numbers are drawn

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform [batch, length, width] to the same shape; `mask` [batch, 1, 1, length] says what is attended to."""
        x = self._add(x, self.attention_out(self._attend(self.attention_in(self.attention_norm(x)), mask)))
        return self._add(x, self.mlp_out(functional.relu(self.mlp_in(self.mlp_norm(x))).square()))

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        branch = self.dropout(branch)
        if self.drop_path is not None:
            branch = self.drop_path(branch)
        return torch.add(x, branch, alpha=self.residual_multiplier)

    def _attend(self, projected: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend: queries, keys and values [batch, length, 3 width] to [batch, length, width]."""
        query, key, value = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self.query_norm(query), self.key_norm(key)
        found = functional.scaled_dot_product_attention(query, key, value, mask, is_causal=self.causal)
        return found.transpose(1, 2).flatten(2)


def _contradictions(
    shape: Sequence[int],
    outputs: int,
    vocabulary: int | None,
    head: str,
    width: int,
    heads: int,
    context: int | None,
    tied: bool,
) -> list[Problem]:
    problems = []
    if width % heads:
        problems.append(Problem("model.heads", f"expected a divisor of the width, {width}", heads))
    if context is not None and context < shape[0]:
        problems.append(Problem("model.context", f"the sequences of the data have {shape[0]} tokens", context))
    if head == LANGUAGE_MODEL and outputs != vocabulary:
        message = f"a language model has an output for each of the {vocabulary} tokens"
        problems.append(Problem("model.outputs", message, outputs, "leave it out"))
    if head == CLASSES and tied:
        problems.append(Problem("model.tied", "a head of classes cannot have the weights of the embedding", tied))
    return problems
