"""muP: factors computed by hand, the rules of the paper's own package, and Yang's coordinate check."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lrflow.errors import ConfigError
from lrflow.layers import MuP, resolve
from lrflow.layers.mup import MatrixOptimizer, Table, lr_scale
from lrflow.layers.widths import Width, describe_scales
from lrflow.models import CNN, MLP, ResNet
from lrflow.optimizers.muon import Muon, update_scale
from lrflow.optimizers.traits import ADJUST_LR


class Plain(nn.Module):
    """Linear layers with torch's initialisation."""

    def __init__(self, width: int, inputs: int = 16, outputs: int = 4) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, width)
        self.middle = nn.Linear(width, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.inner(x)
        second = self.middle(first.relu())
        return {"inner": first, "middle": second, "head": self.head(second.relu())}


class Transformer(nn.Module):
    """A small one: tokens, a table of positions held bare, attention, an MLP four times as wide, a head."""

    def __init__(self, width: int, length: int = 6, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, length, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout=0.0, batch_first=True)
        self.mix = nn.Parameter(torch.randn(width, width))
        self.head = nn.Linear(width, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight


def widths_of(make: Callable[[int], nn.Module], base: int, width: int, **options: object) -> dict[str, Width]:
    mup = MuP(base={"width": base}, **options)
    return {found.entry.name: found for found in mup.widths(make(width), make(base), make(2 * base))}


def scales(table: Table, widths: dict[str, Width]) -> dict[str, float]:
    return {name: lr_scale(width, table) for name, width in widths.items()}


ROLES = {
    "inner.weight": "input",
    "inner.bias": "vector",
    "middle.weight": "hidden",
    "middle.bias": "vector",
    "head.weight": "output",
    "head.bias": "fixed",
}


def test_an_mlp_by_hand() -> None:
    # 8 times as wide. Yang et al., 2022, table 3: input weights and biases, hidden weights, output weights.
    widths = widths_of(Plain, 8, 64)
    assert {name: width.role for name, width in widths.items()} == ROLES
    wide = ["inner.weight", "inner.bias", "middle.bias"]
    rest = {"middle.weight": 1, "head.weight": 1 / 8, "head.bias": 1}
    assert scales("adam", widths) == {**dict.fromkeys(wide, 1), **rest, "middle.weight": 1 / 8}
    assert scales("sgd", widths) == {**dict.fromkeys(wide, 8), **rest}


def test_the_base_itself_has_the_same_roles_and_no_factor() -> None:
    widths = widths_of(Plain, 8, 8)
    assert {name: width.role for name, width in widths.items()} == ROLES
    assert {*scales("adam", widths).values(), *scales("sgd", widths).values()} == {1.0}


def published(table: Table, shape: tuple[int, ...], base: tuple[int, ...]) -> float:
    """What the paper's own package (microsoft/mup 1.0.0, optim.py) does to the LR of a tensor of this shape.

    Adam: over the ratio of the last wide dimension where two are wide, else as it is. SGD: times that ratio where one
    is wide, over the ratio of fan-in to fan-out where two are.
    """
    ratios = [now / then for now, then in zip(shape, base, strict=True)]
    wide = [ratio for ratio in ratios if ratio != 1]
    if table == "adam":
        return 1 / wide[-1] if len(wide) == 2 else 1.0
    return wide[0] if len(wide) == 1 else ratios[0] / ratios[1] if len(wide) == 2 else 1.0


@pytest.mark.parametrize("table", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("make", "base", "width"),
    [
        (Plain, 8, 64),
        (lambda width: MLP([16], 3, widths=[width, 2 * width]), 8, 24),
        (lambda width: CNN([1, 8, 8], 3, widths=[width, width, 2 * width]), 4, 16),
        (lambda width: ResNet([3, 8, 8], 3, width=width, blocks=[1, 1]), 4, 16),
    ],
    ids=["plain", "mlp", "cnn", "resnet"],
)
def test_against_the_published_package(make: Callable[[int], nn.Module], base: int, width: int, table: Table) -> None:
    widths = widths_of(make, base, width)
    for name, found in widths.items():
        theirs = published(table, tuple(found.entry.parameter.shape), tuple(found.base.shape))
        if found.role == "output":
            # There the output is divided by m in the forward pass. Table 3 and table 8 are one parametrisation: a
            # multiplier c of the weight is the same as none with LR x c (Adam) or LR x c^2 (SGD); lemma J.1.
            theirs *= (base / width) ** (1 if table == "adam" else 2)
        assert lr_scale(found, table) == pytest.approx(theirs), name


def test_layers_that_grow_by_different_ratios() -> None:
    # Yang, Simon and Bernstein, 2023: SGD n_out / n_in, Adam 1 / n_in, whatever the shape.
    mup = MuP(base={"widths": [4, 4]})
    models = [MLP([3], 2, widths=widths, norm=False) for widths in ([16, 8], [4, 4], [8, 8])]
    widths = {width.entry.name: width for width in mup.widths(*models)}
    hidden = widths["stage2.linear.weight"]
    assert (hidden.fan_in, hidden.fan_out) == (4, 2)
    assert (lr_scale(hidden, "adam"), lr_scale(hidden, "sgd")) == (1 / 4, 1 / 2)
    assert lr_scale(widths["head.weight"], "sgd") == 1 / 2


def test_a_transformer() -> None:
    roles = {"positions": "input"}
    widths = widths_of(Transformer, 4, 16, roles=roles)
    found = {name: width.role for name, width in widths.items()}
    assert found["embed.weight"] == found["positions"] == "input"
    assert found["start"] == found["block.norm1.weight"] == found["block.self_attn.in_proj_bias"] == "vector"
    assert {name for name, role in found.items() if role == "hidden"} == {
        "block.self_attn.in_proj_weight",
        "block.self_attn.out_proj.weight",
        "block.linear1.weight",
        "block.linear2.weight",
        "mix",
    }
    assert found["head.weight"] == "output"
    assert scales("sgd", widths)["embed.weight"] == 4  # its fan-out is its second dimension
    assert scales("adam", widths)["block.linear2.weight"] == 1 / 4


def test_modules_that_hold_weights_the_other_way_round() -> None:
    def make(width: int) -> nn.Module:
        return nn.ModuleDict(
            {
                "up": nn.ConvTranspose1d(3, width, 2),
                "down": nn.ConvTranspose1d(width, 3, 2),
                "depthwise": nn.Conv1d(width, width, 3, groups=width),
                "recurrent": nn.LSTM(3, width),
                "normed": nn.utils.parametrizations.weight_norm(nn.Linear(width, width)),
            }
        )

    found = {name: width.role for name, width in widths_of(make, 4, 8).items()}
    assert (found["up.weight"], found["down.weight"], found["depthwise.weight"]) == ("input", "output", "input")
    assert (found["recurrent.weight_ih_l0"], found["recurrent.weight_hh_l0"]) == ("input", "hidden")
    assert found["recurrent.bias_hh_l0"] == "vector"
    assert found["normed.parametrizations.weight.original1"] == "hidden"


def test_parameters_of_unknown_role(refused: Callable) -> None:
    problems = refused(widths_of, Transformer, 4, 16)
    assert list(problems) == ["layers.roles.positions"]
    assert "layers.roles={positions: input}" in problems["layers.roles.positions"]


def test_a_tied_readout(refused: Callable) -> None:
    tied = {"roles": {"positions": "input"}}
    problems = refused(widths_of, lambda width: Transformer(width, tied=True), 4, 16, **tied)
    assert "different roles" in problems["layers.roles.embed.weight"]
    reported = {"roles": {"positions": "input", "embed.*": "input"}}
    assert widths_of(lambda width: Transformer(width, tied=True), 4, 16, **reported)["embed.weight"].role == "input"


def test_changes_that_are_no_width(refused: Callable) -> None:
    models = [MLP([3], 2, widths=widths) for widths in ([8, 8], [8], [16])]
    assert "with other parameters: stage2." in refused(MuP({"widths": [8]}).widths, *models)["layers.base"]
    models = [nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 4)]
    assert "nothing in the model grows" in refused(MuP({"bias": True}).widths, *models)["layers.base"]
    models = [nn.Conv1d(8, 8, 5), nn.Conv1d(4, 4, 3), nn.Conv1d(8, 8, 3)]
    assert "not all of that is width" in refused(MuP({"width": 4}).widths, *models)["layers.base"]
    models = [nn.Conv1d(8, 8, 5), nn.Conv1d(4, 4, 3), nn.Conv1d(8, 8, 6)]
    assert "size of the kernel" in refused(MuP({"width": 4}).widths, *models)["layers.base"]
    models = [nn.Embedding(20, 8), nn.Embedding(10, 4), nn.Embedding(20, 8)]
    assert "number of embeddings" in refused(MuP({"width": 4}).widths, *models)["layers.base"]


def test_roles_that_match_nothing(refused: Callable) -> None:
    problems = refused(widths_of, Plain, 4, 8, roles={"hed.bias": "output", "inner.bias": "hidden"})
    assert "nearest: head.bias" in problems["layers.roles.hed.bias"]
    assert "one dimension" in problems["layers.roles.inner.bias"]


def test_values_that_are_none(refused: Callable) -> None:
    bad = {"base": {}, "wider": 3, "optimizer": "adm", "readout": "one", "roles": {"x": "inptu"}}
    problems = refused(MuP, **bad)
    assert list(problems) == ["layers.base", "layers.wider", "layers.optimizer", "layers.readout", "layers.roles.x"]
    assert "did you mean input?" in problems["layers.roles.x"]
    assert "by names" in refused(MuP, base={"width": 4}, roles="input")["layers.roles"]


def test_the_wider_arguments() -> None:
    assert MuP({"widths": [4, [6]], "heads": 2, "norm": True, "rate": 0.5, "kind": "a"}).wider_arguments == {
        "widths": [8, [12]], "heads": 4, "norm": True, "rate": 0.5, "kind": "a",
    }  # fmt: skip
    assert MuP({"widths": [4]}, wider={"widths": [5]}).wider_arguments == {"widths": [5]}


def test_groups_and_their_weight_decay() -> None:
    mup = MuP({"width": 8})
    model = Plain(32)
    widths = mup.widths(model, Plain(8), Plain(16))
    groups = resolve(model, mup.rules(widths, "sgd", 0.1), lr=0.5, weight_decay=0.1)
    assert [(group.name, group.scale, group.lr, group.weight_decay, group.tensors) for group in groups] == [
        ("input", 4.0, 2.0, 0.025, 1),
        ("vector/no_decay", 4.0, 2.0, 0.0, 2),
        ("hidden", 1.0, 0.5, 0.1, 1),
        ("output", 0.25, 0.125, 0.4, 1),
        ("fixed/no_decay", 1.0, 0.5, 0.0, 1),
    ]


@given(
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    base=st.integers(1, 8),
    decay=st.floats(1e-4, 1.0),
    table=st.sampled_from(["adam", "sgd"]),
)
def test_lr_times_weight_decay_is_that_of_the_base(widths: list[int], base: int, decay: float, table: Table) -> None:
    mup = MuP({"widths": [base]}, no_decay=False)
    models = [MLP([2], 2, widths=sizes) for sizes in (widths, [base] * len(widths), [2 * base] * len(widths))]
    groups = resolve(models[0], mup.rules(mup.widths(*models), table, decay), lr=0.1, weight_decay=decay)
    assert sum(group.tensors for group in groups) == len(list(models[0].parameters()))
    for group in groups:
        assert group.lr * group.weight_decay == pytest.approx(0.1 * decay)


def test_the_readout_starts_at_zero_unless_it_is_kept() -> None:
    model = Plain(16)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    mup = MuP({"width": 8}, readout="keep")
    assert mup.start(mup.widths(model, Plain(8), Plain(16))) == []
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    mup = MuP({"width": 8})
    assert mup.start(mup.widths(model, Plain(8), Plain(16))) == ["head.weight"]
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"head.weight"}
    assert not model.head.weight.any()


def test_an_initialisation_that_does_not_follow_the_width() -> None:
    def constant(width: int) -> nn.Module:
        model = Plain(width)
        nn.init.normal_(model.middle.weight, std=0.02)
        return model

    widths = widths_of(constant, 16, 256)
    (line,) = describe_scales(widths.values(), rescaled=False)
    assert line.startswith("middle.weight starts 4")
    assert not describe_scales(widths_of(Plain, 16, 256).values(), rescaled=False)
    (line,) = describe_scales(widths.values(), rescaled=True)
    assert line.startswith("middle.weight: multiplied by 0.2")
    before = {name: width.entry.parameter.detach().clone() for name, width in widths.items()}
    MuP({"width": 16}, readout="keep", rescale=True).start(list(widths.values()))
    middle = widths["middle.weight"]
    assert middle.entry.parameter.std().item() == pytest.approx(middle.base.std().item() / 4, rel=0.01)
    assert [name for name, width in widths.items() if not torch.equal(width.entry.parameter, before[name])] == [
        "middle.weight"
    ]


def test_frozen_parameters_are_in_no_rule() -> None:
    mup = MuP({"width": 8})
    model = Plain(16)
    model.inner.requires_grad_(False)
    widths = mup.widths(model, Plain(8), Plain(16))
    groups = resolve(model, mup.rules(widths, "adam", None), lr=1.0)
    assert [group.name for group in groups] == ["vector/no_decay", "hidden", "output", "fixed/no_decay", "frozen"]


def test_lazy_modules_are_an_error(refused: Callable) -> None:
    lazy = [nn.Sequential(nn.LazyLinear(width)) for width in (8, 4, 8)]
    assert "no shape yet" in refused(MuP({"width": 4}).widths, *lazy)["model"]


WIDTHS = (64, 128, 256, 512, 1024)
STEPS, SEEDS = 3, 3


def change(width: int, how: str, table: Table, seed: int) -> dict[str, float]:
    """Return how much a few steps change the activations of each layer, averaged over their coordinates."""
    torch.manual_seed(seed)
    model = Plain(width)
    scale = dict.fromkeys((name for name, _ in model.named_parameters()), 1.0)
    if how == "mup":
        mup = MuP({"width": 64})
        widths = mup.widths(model, Plain(64), Plain(128))
        mup.start(widths)
        scale = {found.entry.name: lr_scale(found, table) for found in widths}
    factory, lr = (torch.optim.Adam, 0.01) if table == "adam" else (torch.optim.SGD, 0.1)
    optimizer = factory([{"params": [p], "lr": lr * scale[name]} for name, p in model.named_parameters()], lr=lr)
    torch.manual_seed(seed)
    inputs, targets = torch.randn(32, 16), torch.randint(4, (32,))
    before = {name: value.detach() for name, value in model(inputs).items()}
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs)["head"], targets).backward()
        optimizer.step()
    return {name: (value.detach() - before[name]).abs().mean().item() for name, value in model(inputs).items()}


def slopes(how: str, table: Table) -> dict[str, float]:
    """Return the power of the width by which the changes grow."""
    changes = [[change(width, how, table, seed) for seed in range(SEEDS)] for width in WIDTHS]
    return {
        name: np.polyfit(np.log(WIDTHS), [np.log(np.mean([run[name] for run in runs])) for runs in changes], 1)[0]
        for name in ("inner", "middle", "head")
    }


@pytest.mark.parametrize("table", ["adam", "sgd"])
def test_coordinate_check(table: Table) -> None:
    """Yang et al., 2022, appendix D.1: under muP every activation moves by as much at every width."""
    found, standard = slopes("mup", table), slopes("standard", table)
    assert all(abs(slope) < 0.15 for slope in found.values()), found
    assert standard["head"] > 0.5, standard
    assert standard["middle" if table == "adam" else "head"] > 0.4, standard
    if table == "sgd":  # where the first layer's activations move less and less instead
        assert standard["inner"] < -0.3, standard


def trained(model: nn.Module, groups: list[dict], steps: int, eps: float, multiplier: float = 1.0) -> Tensor:
    """The outputs after some steps of Adam."""
    torch.manual_seed(1)
    inputs, targets = torch.randn(32, 16, dtype=torch.float64), torch.randint(4, (32,))
    optimizer = torch.optim.Adam(groups, lr=0.01, eps=eps)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs)["head"] * multiplier, targets).backward()
        optimizer.step()
    return model(inputs)["head"].detach() * multiplier


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1e-8, 1e-3, 0.1]))
def test_eps_against_the_form_with_an_output_multiplier(growth: int, eps: float) -> None:
    # Dey et al., 2025, table 1, and their nanoGPT-mup: logits / m, eps / m throughout, LR / m of hidden weights only.
    def start() -> nn.Module:
        torch.manual_seed(0)
        model = Plain(8 * growth).double()
        nn.init.zeros_(model.head.weight)
        return model

    published, ours = start(), start()
    theirs = [
        {"params": [p], "lr": 0.01 / growth if name == "middle.weight" else 0.01, "eps": eps / growth}
        for name, p in published.named_parameters()
        if name != "head.bias"  # theirs has none
    ]
    published.head.bias = None
    ours.head.bias.requires_grad_(False).zero_()
    mup = MuP({"width": 8}, scale_eps=True)
    rules = mup.rules(mup.widths(ours, Plain(8), Plain(16)), "adam", None, eps)
    groups = [
        {"params": [p for _, p in group.parameters], "lr": group.lr, **dict(group.settings)}
        for group in resolve(ours, rules, 0.01)
        if not group.frozen
    ]
    torch.testing.assert_close(trained(ours, groups, 4, eps), trained(published, theirs, 4, eps, 1 / growth))


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(ADJUST_LR))
def test_a_step_of_muon_has_the_spectral_norm_of_the_width(rows: int, columns: int, adjust: str) -> None:
    # Yang, Simon and Bernstein, 2023: it grows as sqrt(fan-out / fan-in).
    base, model = nn.Linear(6, 4, bias=False), nn.Linear(6 * columns, 4 * rows, bias=False)
    (width,) = MuP({"width": 1}).widths(model, base, nn.Linear(12, 8, bias=False))
    muon = MatrixOptimizer("muon", partial(update_scale, adjust))

    def norm(layer: nn.Linear, lr: float) -> float:
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.randn_like(layer.weight)
        Muon([layer.weight], lr=lr, adjust_lr_fn=adjust, ns_steps=20, ns_coefficients=(2, -1.5, 0.5)).step()
        return torch.linalg.matrix_norm(layer.weight.detach() - before, 2).item()

    grown = norm(model, 0.1 * lr_scale(width, "adam", muon)) / norm(base, 0.1)
    assert grown == pytest.approx((rows / columns) ** 0.5, rel=0.02)
    if adjust == "original" and rows == columns:
        assert lr_scale(width, "adam", muon) == pytest.approx(1)


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        widths_of(Transformer, 4, 16, roles={"nothing": "input"})
    assert [problem.key for problem in caught.value.problems] == ["layers.roles.nothing", "layers.roles.positions"]
