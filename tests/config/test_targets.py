from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from lrflow.cli.command import main
from lrflow.config import compose, instantiate, locate
from lrflow.config.composition.options import Catalogue
from lrflow.config.packages import EXTRAS, read_names, trust_packages, trusted
from lrflow.config.schemas.objects import Data
from lrflow.config.targets import check_arguments, check_name
from lrflow.errors import ConfigError
from lrflow.optimizers.traits import package_of
from lrflow.schedules import Cosine, Schedule


@pytest.mark.parametrize(
    "target",
    [
        "torch.optim.AdamW",
        "torch.nn.Linear",
        "torch.nn.modules.linear.Linear",
        "torch.utils.data.TensorDataset",
        "lrflow.schedules.Cosine",
        "lrflow.models.MLP",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "pytorch_lightning.loggers.CSVLogger",
    ],
)
def test_allowed_targets(target: str) -> None:
    assert locate(target).__name__ == target.rpartition(".")[2]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "numpy.load",
        "joblib.load",
        "pathlib.Path.unlink",
        "sympy.sympify",
        "lrflow.data.module.os.system",
        "lrflow.models.torch.load",
        "lrflow.models.math.prod",
        "lrflow.config.targets.importlib.import_module",
        "lrflow.cli.command.main",
        "torch.nn.modules.module.torch.load",
        "torch.nn.functional.importlib.import_module",
        "torch.optim.adamw.cast",
        "torch.optim.optimizer.torch.serialization.load",
        "torch.utils.data.dataloader.os.system",
        "torch.utils.data.datapipes.utils.common.os.remove",
        "pytorch_lightning.callbacks.model_checkpoint.shutil.rmtree",
        "pytorch_lightning.loggers.csv_logs.os.system",
        "torch.nn.Module.__init__",
        "torch.nn.Linear.__subclasshook__",
        "torch.nn",
        "torch",
        "",
        "torch.nn..Linear",
        ".torch.nn.Linear",
        "torch.nn.Linear()",
        None,
        3,
        ["torch.nn.Linear"],
    ],
)
def test_forbidden_targets(target: object) -> None:
    with pytest.raises(ConfigError):
        locate(target)  # type: ignore[arg-type]


def test_a_module_that_is_not_trusted_is_never_imported(write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("evil.py", "raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    with pytest.raises(ConfigError):
        locate("evil.Thing")
    with pytest.raises(ConfigError):
        instantiate({"a": [{"_target_": "torch.nn.Linear", "x": {"_target_": "evil.Thing"}}]})
    assert "evil" not in sys.modules


class TestTrust:
    CODE = "import os\nfrom torch import load\nfrom os import remove\n\nclass Net:\n    def __init__(self, size=1):\n        self.size = size\n\n    @classmethod\n    def small(cls):\n        return cls(0)\n\ndef make():\n    return Net(2)\n\nitem = Net()\n"  # noqa: E501

    @pytest.fixture(autouse=True)
    def package(self, write, monkeypatch: pytest.MonkeyPatch) -> None:
        write("ours/__init__.py", "")
        write("ours/net.py", self.CODE)
        monkeypatch.setattr(sys, "path", [*sys.path])
        for name in ("ours", "ours.net"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    def test_trust_by_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigError, match="trust=ours"):
            locate("ours.net.Net")
        monkeypatch.setenv("LRFLOW_TRUST", "other,ours")
        assert instantiate({"_target_": "ours.net.Net", "size": 3}).size == 3
        assert instantiate({"_target_": "ours.net.Net.small"}).size == 0
        assert instantiate({"_target_": "ours.net.make"}).size == 2

    def test_trust_by_pyproject(self, write) -> None:
        write("pyproject.toml", '[tool.lrflow]\ntrust = ["ours"]\n')
        assert trusted() == ("ours",)
        assert locate("ours.net.Net").__name__ == "Net"

    def test_trust_of_a_subpackage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LRFLOW_TRUST", "ours.models")
        with pytest.raises(ConfigError):
            locate("ours.net.Net")

    @pytest.mark.parametrize(
        "alias", ["load", "remove", "os.system", "os.path.join", "item", "item.size", "Net.__init__"]
    )
    def test_trust_is_limited_to_the_package(self, alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LRFLOW_TRUST", "ours")
        with pytest.raises(ConfigError):
            locate(f"ours.net.{alias}")

    def test_trust_is_inherited_by_child_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LRFLOW_TRUST", "ours")
        trust_packages(["more", "ours"])
        assert trusted() == ("ours", "more")

    @pytest.mark.parametrize("text", ["*", "a b", "../x", "a.", "1a", "_private"])
    def test_trust_takes_only_names_of_packages(self, text: str) -> None:
        with pytest.raises(ConfigError, match="name of a Python package"):
            read_names(text, "trust")

    @pytest.mark.parametrize("text", ["trust: not toml", "[tool.lrflow]\ntrust = 'ours'", "[tool.lrflow]\ntrust = [1]"])
    def test_a_broken_pyproject(self, write, text: str) -> None:
        write("pyproject.toml", text)
        with pytest.raises(ConfigError, match="trust"):
            trusted()

    def test_code_that_cannot_be_imported(self, write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LRFLOW_TRUST", "ours")
        write("ours/broken.py", "\ndef f(:\n")
        write("ours/needy.py", "import a_package_that_is_not_there\n")
        with pytest.raises(ConfigError, match=r"SyntaxError") as caught:
            locate("ours.broken.f")
        assert caught.value.problems[0].where == "ours/broken.py:2"
        with pytest.raises(ConfigError, match="needs the package a_package_that_is_not_there, which is not"):
            locate("ours.needy.f")


class TestExtras:
    """Packages that only an extra installs: what to install is told before anything is built or imported."""

    @pytest.fixture(params=sorted(name for name, (_, extra) in EXTRAS.items() if extra == "optimizers"))
    def hidden(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        for name in [name for name in sys.modules if name.partition(".")[0] == request.param]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, request.param, None)  # as Python has it, for a package that is not there
        monkeypatch.delitem(sys.modules, "lrflow.optimizers.shampoo", raising=False)
        return request.param

    def test_an_option_that_needs_an_extra(self, hidden: str, capsys: pytest.CaptureFixture[str]) -> None:
        distribution, extra = EXTRAS[hidden]
        targets = shipped_optimizers().items()
        needy = [option for option, found in targets if any(package_of(target) == hidden for target in found)]
        assert needy
        for option in {needy[0], needy[-1]}:
            assert main([f"optimizer={option}"]) == 2
            said = capsys.readouterr().err
            assert f"optimizer = {option}\n" in said
            assert (
                f"needs the package {distribution}, which is not installed\n      pip install 'lrflow[{extra}]'" in said
            )
            assert "Traceback" not in said

    def test_a_target_in_a_missing_package(self, hidden: str) -> None:
        with pytest.raises(ConfigError, match=r"optimizer._target_ = .*needs the package .*") as caught:
            locate(f"{hidden}.AnyOptimizer", "optimizer._target_")
        assert f"pip install 'lrflow[{EXTRAS[hidden][1]}]'" in str(caught.value)

    def test_code_that_imports_a_missing_package(self, write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LRFLOW_TRUST", "players")
        monkeypatch.setitem(sys.modules, "gymnasium", None)
        write("players/agent.py", "import gymnasium\n")
        with pytest.raises(ConfigError, match=r"needs the package gymnasium.*\n.*pip install 'lrflow\[rl\]'"):
            locate("players.agent.f")

    def test_a_recipe_that_imports_a_missing_package_is_refused_before_it_is_imported(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "gymnasium", None)
        with pytest.raises(ConfigError) as caught:
            compose(["recipe=rl_ppo"])
        assert [problem.key for problem in caught.value.problems] == ["model._target_", "data._target_"]
        assert "pip install 'lrflow[rl]'" in str(caught.value)


def shipped_optimizers() -> dict[str, list[str]]:
    """The targets of each option of the group `optimizer`."""
    options = Catalogue().options("optimizer")
    return {name: re.findall(r"^\s*_target_: (\S+)", option.path.read_text(), re.M) for name, option in options.items()}


def test_a_keyword_that_a_library_ignores_is_an_error() -> None:
    pytest.importorskip("pytorch_optimizer")
    given = {"lr": 1e-4, "momentum": 0.9, "cautious": True}
    (problem,) = check_arguments("pytorch_optimizer.Lion", given, "optimizer", extra=["params"])
    assert (problem.key, problem.message) == ("optimizer.momentum", "pytorch_optimizer.Lion takes no momentum")


def test_nested_nodes_are_built_first() -> None:
    built = instantiate(
        {"_target_": "lrflow.schedules.Schedule", "warmup": "5%", "shape": {"_target_": "lrflow.schedules.Cosine"}}
    )
    assert built == Schedule(Cosine(), warmup="5%")


def test_partial_positional_and_extra_arguments() -> None:
    made = instantiate({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5})
    assert isinstance(made, partial)
    assert made([torch.zeros(1)]).defaults["lr"] == 0.5
    layer = instantiate({"_target_": "torch.nn.Linear", "_args_": [3], "out_features": 2}, bias=False)
    assert (layer.in_features, layer.out_features, layer.bias) == (3, 2, None)


def test_nodes_in_containers_are_built() -> None:
    built = instantiate({"layers": [{"_target_": "torch.nn.ReLU"}, 3], "name": "x"})
    assert isinstance(built["layers"][0], torch.nn.ReLU)
    assert (built["layers"][1], built["name"]) == (3, "x")


def test_all_wrong_arguments_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        instantiate({"a": {"_target_": "torch.nn.Linear", "in_feature": 3}, "b": [{"_target_": "os.system"}]})
    told = {problem.key: problem.hint for problem in caught.value.problems}
    assert set(told) == {"a.in_feature", "a.in_features", "a.out_features", "b[0]._target_"}
    assert told["a.in_feature"] == "did you mean a.in_features?"


def test_unknown_controls() -> None:
    with pytest.raises(ConfigError, match="_recursive_"):
        instantiate({"_target_": "torch.nn.ReLU", "_recursive_": False})


def test_checking_a_name_imports_nothing() -> None:
    assert check_name("torch.nn.NoSuchThing") is None
    assert check_name("os.system", "model._target_").key == "model._target_"


class TestKeysThatLrflowReadsItself:
    """`model.loss` and `data.facts` are passed to a target that names them."""

    CODE = """
from lrflow.data import Digits
class Plain:
    def __init__(self, size=1): pass
class Own:
    def __init__(self, size=1, facts=None): pass
class Anything:
    def __init__(self, **options): pass
class Child(Digits):
    def __init__(self, size=1, **options): pass
"""

    @pytest.fixture(autouse=True)
    def package(self, write, monkeypatch: pytest.MonkeyPatch) -> None:
        write("theirs.py", self.CODE)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setenv("LRFLOW_TRUST", "theirs")
        monkeypatch.delitem(sys.modules, "theirs", raising=False)

    @pytest.mark.parametrize(("name", "taken"), [("Plain", False), ("Own", True), ("Anything", False), ("Child", True)])
    def test_facts(self, name: str, taken: bool) -> None:
        data = Data.model_validate({"_target_": f"theirs.{name}", "facts": {"examples": 3}})
        assert ("facts" in data.node()) == taken

    def test_options_passed_to_a_parent_in_lrflow_are_checked(self) -> None:
        problems = check_arguments("theirs.Child", {"size": 2, "batch_size": 3, "batch_sise": 4}, "data")
        assert [(problem.key, problem.hint) for problem in problems] == [
            ("data.batch_sise", "did you mean data.batch_size?")
        ]
        assert check_arguments("theirs.Anything", {"batch_sise": 4}, "data") == []


def test_a_lazy_package_suggests_what_it_exports() -> None:
    with pytest.raises(ConfigError) as caught:
        locate("lrflow.models.MLPP")
    assert caught.value.problems[0].hint == "did you mean MLP?"


def test_a_partial_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "partly.py").write_text("from functools import partial\n\nmake = partial(dict, lr=1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    trust_packages(["partly"])
    with pytest.raises(ConfigError, match=r"is a functools\.partial"):
        locate("partly.make")


def test_an_exit_of_an_imported_module_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    trust_packages(["leaves"])
    with pytest.raises(ConfigError, match="cannot import leaves: SystemExit: 0"):
        locate("leaves.Model")
