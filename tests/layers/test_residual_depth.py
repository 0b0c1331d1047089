"""Depth of residual networks: which lists grow, and CompleteP's rules for AdamW against its table, SGD and eps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lrflow.layers import MuP, resolve
from lrflow.layers.mup import Table, lr_scale
from lrflow.layers.residual_depth import Depth, UnevenDepthError
from lrflow.models import ResNet, Transformer


def transformer(depth: int, width: int = 16, multiplier: float = 1.0) -> Transformer:
    return Transformer([8], 11, 11, width=width, depth=depth, heads=2, residual_multiplier=multiplier)


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def groups_of(model: Transformer, table: Table, base: dict[str, int], **options: object) -> dict[str, dict]:
    """The settings of each parameter under muP, by name."""
    mup = MuP(base, scale_eps=True, readout="keep", **options)
    widths = mup.widths(model, transformer(**base), transformer(**mup.wider_arguments))
    rules = mup.rules(widths, table, 0.1, 1e-3 if table == "adam" else None)
    return {
        name: {"lr": group.lr, "weight_decay": group.weight_decay, "eps": 1e-3, **dict(group.settings)}
        for group in resolve(model, rules, 0.01, 0.1)
        for name, _ in group.parameters
    }


def kind(name: str) -> str:
    """The row of the paper's table 1 to which a parameter belongs."""
    if name.startswith("blocks."):
        return "pre-norm" if "norm" in name else "hidden"
    return {"head.weight": "unembed", "embedding.weight": "embed", "position.weight": "embed"}.get(name, "final norm")


@given(wider=st.sampled_from([1, 2, 4]), deeper=st.sampled_from([1, 2, 3, 8]))
def test_the_table_of_completep(wider: int, deeper: int) -> None:
    # Dey et al., 2025, table 1 with alpha = 1, and their configure_optimizers in nanoGPT-mup. Where they divide the
    # output by m_N, its LR is; the eps outside the blocks is not theirs but that of the gradients (their table has
    # it for the blocks alone).
    found = groups_of(transformer(2 * deeper, 16 * wider), "adam", {"width": 16, "depth": 2})
    for name, settings in found.items():
        row = kind(name)
        narrow = row in ("hidden", "unembed")
        assert settings["lr"] == pytest.approx(0.01 / wider if narrow else 0.01), name
        assert settings["weight_decay"] == pytest.approx(0.0 if "norm" in row else 0.1 * wider if narrow else 0.1), name
        if row in ("hidden", "pre-norm"):
            assert settings["eps"] == pytest.approx(1e-3 / (wider * deeper)), name
        else:
            assert settings["eps"] == pytest.approx(1e-3 / (1 if row == "unembed" else wider)), name


def test_a_deeper_model_starts_as_its_base() -> None:
    torch.manual_seed(0)
    base, deep, plain = transformer(2, 64), transformer(16, 64, 2 / 16), transformer(16, 64)
    ends = ("attention_in", "attention_out", "mlp_in", "mlp_out")
    for end in ends:
        here, there = (model.get_parameter(f"blocks.1.{end}.weight").std().item() for model in (deep, base))
        assert here == pytest.approx(there, rel=0.05), end
    assert plain.get_parameter("blocks.1.mlp_out.weight").std().item() < 0.5 * there


def test_only_the_branches_are_multiplied() -> None:
    torch.manual_seed(0)
    block = transformer(1, multiplier=0.25).blocks[0].double()
    whole = transformer(1).blocks[0].double()
    whole.load_state_dict(block.state_dict())
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    part = block.attention_out(block._attend(block.attention_in(block.attention_norm(x))))
    middle = x + part / 4
    rest = block.mlp_out(block.mlp_in(block.mlp_norm(middle)).relu().square())
    torch.testing.assert_close(block(x), middle + rest / 4)
    assert not torch.allclose(whole(x), block(x))


LISTS: list[tuple[list[str], list[str], dict[str, tuple[int, int]], float]] = [
    (names(transformer(6)), names(transformer(2)), {"blocks": (6, 2)}, 3),
    (names(transformer(2)), names(transformer(4)), {"blocks": (2, 4)}, 0.5),
    (names(transformer(3)), names(transformer(3)), {}, 1),
    (names(ResNet([3, 8, 8], 2, 4, [4, 4])), names(ResNet([3, 8, 8], 2, 4, [2, 2])),
     {"stage1": (4, 2), "stage2": (4, 2)}, 2),
    (["a.0.b.0.w", "a.0.b.1.w", "a.1.b.0.w", "a.1.b.1.w"], ["a.0.b.0.w", "a.1.b.0.w"], {"a.*.b": (2, 1)}, 2),
    (["0.w", "2.w", "4.w", "6.w"], ["0.w", "2.w"], {"": (4, 2)}, 2),
]  # fmt: skip


def test_lists_that_grow_and_the_block_that_stands_for_each() -> None:
    for here, base, lists, ratio in LISTS:
        depth = Depth.of(here, base)
        assert (depth.lists, depth.ratio) == (lists, ratio)
        found = {depth.counterpart(name) for name in here}
        assert found == set(base) if ratio >= 1 else found < set(base)
        for name in here:
            assert depth.counterpart(name) == name or depth.holds(name), name
    depth = Depth.of(*LISTS[0][:2])
    assert [depth.counterpart(f"blocks.{index}.mlp_in.weight") for index in (0, 1, 2, 5)] == [
        f"blocks.{index}.mlp_in.weight" for index in (0, 1, 1, 1)
    ]
    assert not depth.holds("head.weight")


def test_stages_that_grow_by_different_ratios() -> None:
    for here, base in (([3, 6], [1, 1]), ([2, 6], [2, 2])):
        lists = [f"layers.{stage}.blocks.{index}.w" for stage, count in enumerate(here) for index in range(count)]
        before = [f"layers.{stage}.blocks.{index}.w" for stage, count in enumerate(base) for index in range(count)]
        with pytest.raises(UnevenDepthError, match=r"layers.\*.blocks"):
            Depth.of(lists, before)


def test_a_base_of_other_blocks_is_no_base(refused: Callable) -> None:
    class Other(nn.Module):
        def __init__(self, width: int, depth: int) -> None:
            super().__init__()
            kinds = (nn.Linear(width, width), nn.LSTM(width, width))
            self.blocks = nn.ModuleList(kinds[index] for index in range(depth))

    problems = refused(MuP({"depth": 1}).widths, Other(4, 2), Other(4, 1), Other(4, 2))
    assert "other parameters: blocks.0.bias_hh_l0" in problems["layers.base"]


DEPTHS = (2, 4, 8, 16)


def change(depth: int, table: Table, multiplied: bool, seed: int) -> float:
    """How much a few steps change the last block's output, averaged over its entries."""
    torch.manual_seed(seed)
    model = transformer(depth, 32, 2 / depth if multiplied else 1.0)
    scale = dict.fromkeys(names(model), 1.0)
    if multiplied:
        mup = MuP({"depth": 2}, readout="keep")
        widths = mup.widths(model, transformer(2, 32), transformer(4, 32))
        scale = {found.entry.name: lr_scale(found, table) for found in widths}
    optimizer: torch.optim.Optimizer
    factory = partial(torch.optim.Adam, lr=2e-3) if table == "adam" else partial(torch.optim.SGD, lr=0.5)
    rate = factory.keywords["lr"]
    optimizer = factory([{"params": [p], "lr": rate * scale[name]} for name, p in model.named_parameters()])
    # only what is in the blocks moves, so that what they add up to is seen alone
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("blocks."))
    tokens = torch.randint(11, (16, 9), generator=torch.Generator().manual_seed(seed))
    found: list[Tensor] = []
    model.norm.register_forward_hook(lambda _, inputs, output: found.append(inputs[0].detach()))
    for _ in range(4):
        optimizer.zero_grad()
        cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    return (found[-1] - found[0]).abs().mean().item()


@pytest.mark.parametrize("table", ["adam", "sgd"])
def test_coordinate_check_over_depth(table: Table) -> None:
    """Dey et al., 2025, figure 7: the change of what the blocks add up to does not depend on their number."""
    slopes = {}
    for multiplied in (True, False):
        changes = [np.mean([change(depth, table, multiplied, seed) for seed in range(2)]) for depth in DEPTHS]
        slopes[multiplied] = np.polyfit(np.log(DEPTHS), np.log(changes), 1)[0]
    assert abs(slopes[True]) < 0.12, slopes
    assert slopes[False] > 0.25, slopes
