"""The transformer: its attention, what it may see, its start, and the groups that layer rules make of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from lrflow import assemble
from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.layers import Group
from lrflow.models import Transformer
from lrflow.models.transformer import Block


@pytest.fixture
def language_model() -> Transformer:
    torch.manual_seed(0)
    return Transformer([8], 84, 84, width=16, depth=2, heads=2).eval()


@pytest.fixture
def classifier() -> Transformer:
    torch.manual_seed(0)
    return Transformer([8], 3, 20, head="classes", width=16, depth=2, heads=2, padding=19).eval()


def text(*shape: int, high: int = 84) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_that_of_torch(causal: bool) -> None:
    torch.manual_seed(0)
    block, width, heads = Block(16, 4, 0.0, causal), 16, 4
    reference = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.attention_in.weight)
        reference.out_proj.weight.copy_(block.attention_out.weight)
    x, absent = torch.randn(3, 7, width), torch.arange(7) > 4
    future = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    expected, _ = reference(x, x, x, attn_mask=future, key_padding_mask=None if causal else absent.expand(3, 7))
    mask = None if causal else ~absent.expand(3, 1, 1, 7)
    torch.testing.assert_close(block.attention_out(block._attend(block.attention_in(x), mask)), expected)


def test_qk_norm_makes_attention_independent_of_the_size_of_queries_and_keys() -> None:
    torch.manual_seed(0)
    block, x = Block(16, 4, 0.0, qk_norm=True), torch.randn(2, 5, 48)
    larger = torch.cat([10 * x[..., :32], x[..., 32:]], -1)
    torch.testing.assert_close(block._attend(larger), block._attend(x), rtol=0, atol=1e-3)
    plain = Block(16, 4, 0.0)
    query, key, value = (part.unflatten(-1, (4, 4)) for part in x.chunk(3, -1))
    normed = torch.cat([functional.layer_norm(part, [4]).flatten(2) for part in (query, key)], -1)
    expected = plain._attend(torch.cat([normed, value.flatten(2)], -1))
    torch.testing.assert_close(block._attend(x), expected)
    assert not torch.allclose(plain._attend(larger), plain._attend(x), rtol=0, atol=0.1)


def test_a_block_is_pre_norm_with_squared_relu() -> None:
    torch.manual_seed(0)
    block = Block(16, 4, dropout=0.0)
    x = torch.randn(2, 5, 16)
    y = x + block.attention_out(block._attend(functional.layer_norm(x, [16]) @ block.attention_in.weight.T))
    hidden = functional.layer_norm(y, [16]) @ block.mlp_in.weight.T
    torch.testing.assert_close(block(x), y + hidden.clamp(min=0) ** 2 @ block.mlp_out.weight.T)


def test_a_prediction_knows_nothing_of_later_tokens(language_model: Transformer) -> None:
    one, other = text(1, 8), text(1, 8)
    other[0, 5] = (other[0, 5] + 1) % 84
    before, after = language_model(one), language_model(other)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).flatten(2).any(2).all()


def test_a_class_depends_on_all_tokens_and_not_on_padding(classifier: Transformer) -> None:
    tokens = text(2, 5, high=19)
    padded = functional.pad(tokens, (0, 3), value=19)
    torch.testing.assert_close(classifier(padded), classifier(tokens))
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % 19
    assert (classifier(other) != classifier(tokens)).any(1).all()
    assert classifier(torch.full((1, 8), 19)).isfinite().all()  # an empty text


def test_weights_start_as_those_of_gpt2(language_model: Transformer) -> None:
    model = Transformer([64], 84, 84, width=128, depth=3, heads=4)
    weights = {name: float(parameter.detach().std()) for name, parameter in model.named_parameters()}
    for name in ("embedding", "head", "blocks.0.attention_in", "blocks.2.mlp_in"):
        assert weights[f"{name}.weight"] == pytest.approx(0.02, rel=0.05)
    for name in ("blocks.0.attention_out", "blocks.2.mlp_out"):
        assert weights[f"{name}.weight"] == pytest.approx(0.02 / math.sqrt(6), rel=0.05)
    tokens = text(4, 9)
    loss = functional.cross_entropy(language_model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss.detach()) == pytest.approx(math.log(84), abs=0.1)


def test_every_wrong_argument_is_told() -> None:
    table: list[tuple[dict[str, Any], list[str]]] = [
        ({"heads": 3}, ["model.heads"]),
        ({"width": 0, "dropout": 1}, ["model.width", "model.dropout"]),
        ({"shape": [3, 8, 8]}, ["model.shape"]),
        ({"context": 4}, ["model.context"]),
        ({"vocabulary": None}, ["model.vocabulary"]),
        ({"outputs": 3}, ["model.outputs"]),
        ({"head": "classes", "tied": True}, ["model.tied"]),
    ]
    for options, keys in table:
        with pytest.raises(ConfigError) as caught:
            Transformer(**{"shape": [8], "outputs": 84, "vocabulary": 84, "width": 16, "heads": 2, **options})
        assert [problem.key for problem in caught.value.problems] == keys


def groups(tmp_path: Path, *words: str) -> list[Group]:
    """The parameter groups of a small language model."""
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question. " * 200)
    own = ["data=text", f"data.file={tmp_path}/text.txt", "data.length=16", "model=transformer", "model.width=32",
           "model.depth=2", "trainer=cpu", "optimizer.lr=1"]  # fmt: skip
    config = compose([*own, *words])
    data = assemble.load_data(config)
    return assemble.build_groups(config, assemble.build_module(config, data=data), data=data)


def test_layer_decay_follows_the_depth_of_the_blocks(tmp_path: Path) -> None:
    made = groups(tmp_path, "layers=layer_decay", "layers.decay=0.5")
    rates = {group.name: group.lr for group in made if "no_decay" not in group.name}
    assert rates == {"embedding": 0.125, "position": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "head": 1}


@pytest.mark.parametrize("tied", [False, True])
def test_muon_gets_the_matrices_of_the_blocks_alone(tied: bool, tmp_path: Path) -> None:
    made = groups(tmp_path, "optimizer=muon", f"model.tied={str(tied).lower()}")
    parts = ("attention_in", "attention_out", "mlp_in", "mlp_out")
    blocks = {f"blocks.{block}.{part}.weight" for block in range(2) for part in parts}
    assert blocks in [{name for name, _ in group.parameters} for group in made]


def test_mup_scales_the_hidden_matrices_by_width(tmp_path: Path) -> None:
    made = groups(tmp_path, "layers=mup", "layers.base={width: 8, heads: 1}", "model.heads=4", "optimizer=adamw",
                  "optimizer.lr=1")  # fmt: skip
    rates = {name: group.lr for group in made for name, _ in group.parameters}
    assert {rates[f"blocks.0.{name}.weight"] for name in ("attention_in", "mlp_in", "mlp_out")} == {0.25}
    assert (rates["embedding.weight"], rates["position.weight"], rates["head.weight"]) == (1, 1, 0.25)
