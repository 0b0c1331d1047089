"""Traits of optimizers: known by name without torch, found along base classes, and true of the classes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from lrflow.config import compose, locate
from lrflow.config.composition.options import Catalogue
from lrflow.config.origins import read_yaml
from lrflow.config.packages import trust_packages
from lrflow.config.targets import check_arguments, optimizer_traits
from lrflow.errors import ConfigError, Problem
from lrflow.layers import Group
from lrflow.optimizers import Muon, Traits, build_optimizer, check_groups, check_members, traits_of
from lrflow.optimizers.traits import names_with, traits_named
from lrflow.tasks import train
from lrflow.vectorized.eligibility import ineligible_because

pytest.importorskip("pytorch_optimizer")
pytest.importorskip("prodigyopt")
pytest.importorskip("schedulefree")


def targets(content: Mapping[str, Any]) -> list[str]:
    return [content["_target_"], *(route["_target_"] for route in content.get("routes", {}).values())]


SHIPPED = sorted({name for one in Catalogue().options("optimizer").values() for name in targets(read_yaml(one.path))})
OTHERS = ["torch.optim.ASGD", "torch.optim.Muon", "pytorch_optimizer.ScalableShampoo", "torch.optim.adamw.AdamW"]


@pytest.mark.parametrize("target", [*SHIPPED, *OTHERS])
class TestRecords:
    def test_the_name_and_the_class_have_the_same_record(self, target: str) -> None:
        assert traits_named(target) is not None
        assert traits_named(target) == traits_of(locate(target))

    def test_the_records_agree_with_the_classes(self, target: str) -> None:
        """A subclass without a record that shows the same traits has the same traits."""
        kind = locate(target)
        record = traits_of(kind)
        own = {name: value for name, value in vars(kind).items() if name in ("step", "__init__", "train", "eval")}
        output = traits_of(type("Bare", (torch.optim.Optimizer,), own))
        for trait in ("modes", "estimates_lr", "needs_closure"):
            assert getattr(record, trait) == getattr(output, trait), trait

    def test_a_subclass_is_treated_as_its_parent(self, target: str) -> None:
        class Mine(locate(target)):  # type: ignore[misc]
            """A subclass that changes nothing."""

        assert traits_of(Mine) == traits_of(locate(target))


@pytest.mark.parametrize(
    "name", ["Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adamax", "Lion", "AdEMAMix"]
)
def test_decoupled_decay_shrinks_the_weights_by_lr_times_decay(name: str) -> None:
    """With another gradient than the decay's, a decay that passes through a normalised gradient does not."""
    package = "torch.optim" if hasattr(torch.optim, name) else "pytorch_optimizer"
    kind, traits = locate(f"{package}.{name}"), traits_of(locate(f"{package}.{name}"))
    for choice in [{}] if traits.decoupling is None else [{}, {traits.decoupling: True}, {traits.decoupling: False}]:
        after = []
        for decay in (0.0, 0.5):
            weight = nn.Parameter(torch.full((2,), 3.0))
            optimizer = kind([weight], lr=0.01, weight_decay=decay, **choice)
            for gradient in (1.0, -0.5) * 10:
                weight.grad = torch.full((2,), gradient)
                optimizer.step()
            after.append(weight.detach())
        shrunk = torch.allclose(after[0] - after[1], torch.tensor(3 * (1 - 0.995**20)), atol=0.01)
        assert traits.is_decoupled(choice) == shrunk, choice


def test_the_classes_with_a_bound_are_named_in_order() -> None:
    assert names_with("bound") == ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"]


def test_they_are_known_without_torch() -> None:
    code = (
        "import sys; from lrflow.optimizers.traits import traits_named; import lrflow.config\n"
        "assert traits_named('torch.optim.LBFGS').line_search and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestOwn:
    """Traits that custom classes and functions show and declare."""

    def test_a_class_with_its_own_step_loses_the_update_traits(self) -> None:
        class Mine(torch.optim.AdamW):
            def step(self, closure: Any = None) -> Any:
                return None

        traits = traits_of(Mine)
        assert (traits.update, traits.mup, traits.bound, traits.state) == (None,) * 4
        assert traits.decoupled

        class Search(torch.optim.LBFGS):
            def step(self, closure: Any) -> Any:  # type: ignore[override]
                return super().step(closure)

        assert traits_of(Search).line_search
        assert traits_of(Search).needs_closure

    def test_creating_one_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """torch wraps the step of a class, as soon as one is made of it, in the class itself."""

        class Fresh(torch.optim.Adamax):
            pass

        class Mine(Fresh):
            pass

        before = traits_of(Mine)
        monkeypatch.setattr(torch.optim.Adamax.step, "hooked", False, raising=False)  # as where no parent was made
        Mine([nn.Parameter(torch.ones(2))])
        assert "step" in vars(Mine)
        assert traits_of(Mine) == before
        assert before.mup == "adam"

    def test_inspected_traits_of_a_class(self) -> None:
        class Averaging(torch.optim.SGD):
            def train(self) -> None: ...

            def eval(self) -> None: ...

        class Estimating(torch.optim.Adam):
            def __init__(self, params: Any, lr: float = 1.0, d0: float = 1e-6) -> None:
                super().__init__(params, lr)

        class Counting(torch.optim.SGD):
            def _init_group(self, *lists: Any) -> Any:
                return super()._init_group(*lists)

        assert traits_of(Averaging).modes
        assert traits_of(Estimating).estimates_lr
        assert not traits_of(Counting).compilable
        assert traits_of(torch.optim.SparseAdam) == Traits()

    def test_its_declared_traits_take_precedence(self) -> None:
        class Mine(torch.optim.AdamW):
            lrflow_traits: ClassVar = {"mup": None, "modes": False}

            def train(self) -> None: ...

            def eval(self) -> None: ...

        class Child(Mine):
            pass

        class Other(Mine):
            lrflow_traits = Traits(line_search=True)

        for kind in (Mine, Child):
            assert (traits_of(kind).mup, traits_of(kind).modes, traits_of(kind).bound) == (None, False, "adam")
        assert traits_of(Other) == Traits(line_search=True)

    @pytest.mark.parametrize(
        ("messages", "words"),
        [
            ({"bond": "adam"}, r"no such trait\n    did you mean bound\?"),
            ({"bound": "lion"}, "bound is one of sgd, adam, rmsprop, adagrad"),
            ({"ranges": {"lambda": "small"}}, "the range of lambda"),
            (3, "expected Traits"),
        ],
    )
    def test_its_declared_traits_are_checked(self, messages: Any, words: str) -> None:
        kind = type("Mine", (torch.optim.SGD,), {"lrflow_traits": messages})
        with pytest.raises(ConfigError, match=words) as caught:
            traits_of(kind, "optimizer.routes.a._target_")
        assert caught.value.problems[0].key == "optimizer.routes.a._target_"

    def test_a_function_that_makes_one(self) -> None:
        def make(params: Any, lr: float, d0: float = 1.0) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(params, lr)

        assert traits_of(make) == Traits(estimates_lr=True, factor="d")
        make.lrflow_traits = {"line_search": True}  # type: ignore[attr-defined]
        assert traits_of(make).line_search


# --- A subclass has the traits of its parent ---

MINE = """
import torch, schedulefree, prodigyopt, pytorch_optimizer
import lrflow.optimizers

class LBFGS(torch.optim.LBFGS): pass
class SGD(torch.optim.SGD): pass
class AdamW(torch.optim.AdamW):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.95), **options):
        super().__init__(params, lr=lr, betas=betas, **options)
class Adam(torch.optim.Adam): pass
class Muon(lrflow.optimizers.Muon): pass
class TorchMuon(torch.optim.Muon): pass
class AdamWScheduleFree(schedulefree.AdamWScheduleFree): pass
class Prodigy(prodigyopt.Prodigy): pass
class AdaHessian(pytorch_optimizer.AdaHessian): pass
class ScalableShampoo(pytorch_optimizer.ScalableShampoo): pass
class SOAP(pytorch_optimizer.SOAP): pass
class Lion(pytorch_optimizer.Lion):
    def __init__(self, params, lr=1e-4, **options):
        super().__init__(params, lr=lr, **options)
class Heavy(torch.optim.SGD):
    def __init__(self, params, lr=0.1, momentum=0.9, dampening=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)
class Hidden(torch.optim.SGD):
    def __init__(self, params, lr=0.1, **options):
        super().__init__(params, lr, momentum=0.9, **options)

def lbfgs(params, lr=1.0): return torch.optim.LBFGS(params, lr)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs_of_traits.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LRFLOW_TRUST", "")
    monkeypatch.delitem(sys.modules, "theirs_of_traits", raising=False)
    trust_packages(["theirs_of_traits"])


def problems(*overrides: str) -> list[Problem]:
    try:
        compose(overrides)
    except ConfigError as error:
        return error.problems
    return []


MUP = ("layers=mup", "layers.base={widths: [64, 64]}")
SAME: list[tuple[str, Sequence[str], Sequence[str]]] = [
    (
        "torch.optim.LBFGS",
        ["optimizer=lbfgs", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1",
         "trainer.precision=16-mixed", "trainer.devices=2"],
        ["trainer.accumulate_grad_batches", "trainer.devices", "trainer.gradient_clip_val", "trainer.precision"],
    ),
    (
        "torch.optim.LBFGS",
        ["optimizer=lbfgs", "optimizer.max_iter=0", "optimizer.line_search_fn=wolfe"],
        ["optimizer.line_search_fn", "optimizer.max_iter"],
    ),
    (
        "pytorch_optimizer.AdaHessian",
        ["optimizer=adahessian", "trainer.compile=true", "trainer.strategy=ddp"],
        ["trainer.compile", "trainer.strategy"],
    ),
    (
        "schedulefree.AdamWScheduleFree",
        ["optimizer=schedule_free_adamw", "trainer.strategy=fsdp", "+optimizer.warmup_steps=5"],
        ["optimizer.warmup_steps", "trainer.strategy"],
    ),
    (
        "lrflow.optimizers.Muon",
        ["optimizer=muon", "trainer.strategy=fsdp", "optimizer.routes.muon.ns_dtype=half"],
        ["optimizer.routes.muon.ns_dtype", "trainer.strategy"],
    ),
    ("pytorch_optimizer.ScalableShampoo", ["optimizer=shampoo"], ["optimizer._target_"]),
    (
        "pytorch_optimizer.SOAP",
        ["optimizer=soap", "optimizer.precondition_frequency=0"],
        ["optimizer.precondition_frequency"],
    ),
    (
        "prodigyopt.Prodigy",
        ["optimizer=prodigy", "optimizer.d0=0", "optimizer.growth_rate=1"],
        ["optimizer.d0", "optimizer.growth_rate"],
    ),
    (
        "pytorch_optimizer.Lion",
        ["optimizer=lion", "+optimizer.momentum=0.9", "+optimizer.cautious=true"],
        ["optimizer.momentum"],
    ),
    ("torch.optim.SGD", ["optimizer=sgd", "+optimizer.nesterov=true"], ["optimizer.nesterov"]),
    ("torch.optim.AdamW", ["optimizer=adamw", *MUP], []),
    ("torch.optim.Adam", ["optimizer=adam", "optimizer.weight_decay=0.1", *MUP], ["optimizer.weight_decay"]),
    ("torch.optim.LBFGS", ["optimizer=lbfgs", *MUP], ["optimizer._target_"]),
    ("torch.optim.AdamW", ["optimizer=adamw", "task=find", "find=stability"], []),
    ("pytorch_optimizer.Lion", ["optimizer=lion", "task=find", "find=stability"], ["optimizer._target_"]),
]  # fmt: skip


@pytest.mark.usefixtures("mine")
class TestASubclass:
    @pytest.mark.parametrize(("parent", "overrides", "keys"), SAME, ids=lambda value: str(value)[:50])
    def test_a_subclass_is_treated_as_its_parent(
        self, parent: str, overrides: Sequence[str], keys: Sequence[str]
    ) -> None:
        place = "optimizer.routes.muon" if parent.endswith("Muon") else "optimizer"
        kinds = (parent, f"theirs_of_traits.{parent.rpartition('.')[2]}")
        for found in (problems(*overrides, f"{place}._target_={target}") for target in kinds):
            assert sorted(problem.key for problem in found) == list(keys)

    @pytest.mark.parametrize("name", ["Heavy", "Hidden"])
    def test_its_own_defaults_count(self, name: str) -> None:
        assert (
            problems("optimizer=nesterov", f"optimizer._target_=theirs_of_traits.{name}", "~optimizer.momentum") == []
        )

    @pytest.mark.parametrize(("name", "reason"), [("AdamW", None), ("SGD", None), ("Lion", "Lion is not one of")])
    def test_it_trains_in_a_population_where_its_step_is_its_parents(self, name: str, reason: str | None) -> None:
        why = ineligible_because(compose([f"optimizer={name.lower()}", f"optimizer._target_=theirs_of_traits.{name}"]))
        assert (why or "").startswith(reason or "")
        assert bool(why) == bool(reason)

    def test_groups_of_several_rates(self) -> None:
        weights = [
            Group(name, ((name, nn.Parameter(torch.ones(2))),), lr, 1.0) for name, lr in (("a", 1.0), ("b", 2.0))
        ]
        for name, words in (("LBFGS", "as one vector"), ("Prodigy", "estimates one LR")):
            (problem,) = check_groups(weights, locate(f"theirs_of_traits.{name}"))
            assert f"{name} " in problem.message
            assert words in problem.message

    def test_it_cannot_share_a_step(self) -> None:
        kinds = {None: torch.optim.AdamW, "a": locate("theirs_of_traits.LBFGS")}
        assert [problem.key for problem in check_members(kinds)] == ["optimizer.routes.a"]
        newton = locate("theirs_of_traits.AdaHessian")
        assert [problem.key for problem in check_members({None: newton, "a": newton})] == ["optimizer.routes.a"]

    def test_a_route_of_it(self) -> None:
        route = "optimizer.routes.muon={_target_: theirs_of_traits.AdaHessian, lr: 0.1}"
        found = problems("optimizer=adamw", "layers=muon", route, "trainer.compile=true")
        assert [problem.key for problem in found] == ["trainer.compile"]


BARE = ["~optimizer.max_iter", "~optimizer.history_size", "~optimizer.line_search_fn"]


@pytest.mark.usefixtures("mine")
class TestAFunction:
    def test_it_does_not_crash_the_checks(self) -> None:
        target = "optimizer._target_=theirs_of_traits.lbfgs"
        assert problems("optimizer=lbfgs", target, *BARE) == []
        assert optimizer_traits("theirs_of_traits.lbfgs") == Traits()

    def test_the_made_optimizer_is_checked(self) -> None:
        from lrflow.assemble import make_optimizer

        asked = ["optimizer=lbfgs", "optimizer._target_=theirs_of_traits.lbfgs", *BARE]
        groups = [Group("all", (("w", nn.Parameter(torch.ones(2))),), 1.0, 1.0)]
        assert make_optimizer(compose(asked), groups, torch.device("cpu"))
        config = compose([*asked, "trainer.accumulate_grad_batches=2"])
        with pytest.raises(ConfigError, match=r"trainer\.accumulate_grad_batches"):
            make_optimizer(config, groups, torch.device("cpu"))


@pytest.mark.usefixtures("mine")
def test_keywords_that_a_parent_swallows() -> None:
    arguments = {"lr": 0.1, "betas": [0.9, 0.99], "cautious": True, "cautios": True}
    found = check_arguments("theirs_of_traits.Lion", arguments, "optimizer", extra=("params",))
    assert [(problem.key, problem.hint) for problem in found] == [
        ("optimizer.cautios", "did you mean optimizer.cautious?")
    ]


def test_a_class_that_declares_no_modes_is_not_switched() -> None:
    class Mine(torch.optim.SGD):
        lrflow_traits: ClassVar = {"modes": False}

        def train(self) -> None:
            raise AssertionError

        def eval(self) -> None:
            raise AssertionError

    groups = [Group("all", (("w", nn.Parameter(torch.ones(2))),), 0.1, 1.0)]
    make: Callable[..., torch.optim.Optimizer] = Mine
    assert isinstance(build_optimizer(groups, {"lr": 0.1}, make), Mine)


class TestTheDocumentedExample:
    """docs/optimizers.md, "An optimizer of your own"."""

    @pytest.fixture(autouse=True)
    def _written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        page = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()
        (block,) = re.findall(r"^```python\n# my_pkg/optim\.py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        (tmp_path / "signs_of_traits.py").write_text(block)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("LRFLOW_TRUST", "")
        monkeypatch.delitem(sys.modules, "signs_of_traits", raising=False)
        trust_packages(["signs_of_traits"])

    ASKED = ("optimizer=sgd", "optimizer._target_=signs_of_traits.Signs", "~optimizer.nesterov", "~optimizer.dampening")

    def test_its_traits_hold(self) -> None:
        assert problems(*self.ASKED, "optimizer.weight_decay=0.1", *MUP) == []
        (problem,) = problems(*self.ASKED, "+optimizer.period=0")
        assert (problem.key, problem.message) == ("optimizer.period", "expected a whole number above 0")

    @pytest.mark.usefixtures("undrawn")
    def test_it_trains(self, tmp_path: Path) -> None:
        short = ("trainer.max_steps=3", "trainer.progress=false", "task.test=false", f"output={tmp_path}")
        done = train.run(compose([*self.ASKED, "optimizer.lr=1e-3", *short]))
        assert (Path(done["folder"]) / "checkpoints" / "step-0000003.ckpt").exists()


def test_muon_itself_is_lrflows() -> None:
    assert traits_of(Muon) is traits_named("lrflow.optimizers.muon.Muon")


def test_shampoo_swallows_no_keyword_that_its_package_ignores() -> None:
    (problem,) = check_arguments(
        "lrflow.optimizers.shampoo.Shampoo", {"foo": 3, "use_gc": True}, "optimizer", ["params"]
    )
    assert problem.key == "optimizer.foo"
