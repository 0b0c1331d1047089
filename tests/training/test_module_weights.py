"""Initial weights: which tensors are loaded, which stay fresh, and errors for those that do not fit."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrflow.config import compose
from lrflow.errors import ConfigError, LrflowError
from lrflow.tasks import evaluate, train
from lrflow.training.module import load_weights


def net(width: int = 4, outputs: int = 3, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(stem=nn.Linear(2, width), norm=nn.BatchNorm1d(width), head=nn.Linear(width, outputs))
    )


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    def save(content: Any) -> Path:
        torch.save(content, tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    return save


def equal(first: dict[str, Tensor], second: dict[str, Tensor], *names: str) -> bool:
    return all(torch.equal(first[name], second[name]) for name in names)


@pytest.mark.parametrize("wrapper", ["", "model.", "module.", "model._orig_mod."])
@pytest.mark.parametrize("inside", [None, "state_dict", "model"])
def test_every_tensor_is_loaded(saved: Callable[[Any], Path], wrapper: str, inside: str | None) -> None:
    source, model = net(), net(seed=1)
    source.norm.running_mean += 5  # type: ignore[union-attr, operator]
    content = {f"{wrapper}{name}": tensor for name, tensor in source.state_dict().items()}
    path = saved(content if inside is None else {inside: content, "epoch": 3})
    assert load_weights(model, path) == f"weights of {path}: loaded 9 of 9 tensors"
    assert equal(source.state_dict(), model.state_dict(), *source.state_dict())


def test_fresh_tensors_are_unchanged(saved: Callable[[Any], Path]) -> None:
    source, model = net(outputs=3), net(outputs=5, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = saved(source.state_dict() | {"old_head.bias": torch.zeros(7)})
    told = load_weights(model, path, ["head.*", r"re:old_\w+\.bias"])
    assert told == (
        f"weights of {path}: loaded 7 of 9 tensors; 2 stayed fresh (head.weight, head.bias); "
        "1 of the file unused (old_head.bias)"
    )
    after = model.state_dict()
    assert equal(before, after, "head.weight", "head.bias")
    assert equal(source.state_dict(), after, *(name for name in after if not name.startswith("head")))


def test_a_model_with_a_part_called_model_keeps_its_names(saved: Callable[[Any], Path]) -> None:
    source, model = nn.ModuleDict({"model": nn.Linear(2, 2)}), nn.ModuleDict({"model": nn.Linear(2, 2)})
    load_weights(model, saved(source.state_dict()))
    assert equal(source.state_dict(), model.state_dict(), "model.weight", "model.bias")


def test_every_tensor_that_does_not_fit_is_listed(saved: Callable[[Any], Path]) -> None:
    content = net(outputs=3).state_dict()
    content["trunk.weight"] = content.pop("stem.weight")
    model = net(outputs=5, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        load_weights(model, saved(content), ["nrom.*"])
    told = str(caught.value)
    assert re.search(r"model\.fresh = 'nrom\.\*': matches no tensor.*\n.*nearest: norm\.\*", told)
    assert re.search(r"model\.init_from = .*the file lacks tensors of the model: stem\.weight\n", told)
    assert "head.weight [5, 4] ([3, 4] in the file), head.bias [5] ([3] in the file)" in told
    assert "the model lacks tensors of the file: trunk.weight" in told
    assert equal(before, model.state_dict(), *before)


def test_a_file_without_tensors_or_a_broken_one_is_rejected(saved: Callable[[Any], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no tensors by name"):
        load_weights(net(), saved({"epoch": 3}))
    (tmp_path / "broken.pt").write_bytes(saved(net().state_dict()).read_bytes()[:-100])
    with pytest.raises(LrflowError, match="cut short"):
        load_weights(net(), tmp_path / "broken.pt")


def test_init_from_applies_to_a_new_run_but_not_to_its_resumption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *more: str) -> Path:
        common = [f"output={tmp_path}", f"name={name}", "model=logistic", "trainer=cpu", "trainer.progress=false"]
        common += ["trainer.max_steps=4", "trainer.checkpoint.every=2", "task.test=false"]
        return Path(train.run(compose([*common, *more]))["folder"]) / "checkpoints"

    first = run("first", "optimizer.lr=0.1") / "step-0000004.ckpt"
    still = [f"model.init_from={first}", "optimizer.lr=1e-12", "optimizer.weight_decay=0"]
    second = run("second", *still)
    assert f"weights of {first}: loaded 2 of 2 tensors\n" in capsys.readouterr().out
    theirs, own = (torch.load(path, weights_only=True)["state_dict"] for path in (first, second / "step-0000004.ckpt"))
    assert all(torch.allclose(theirs[name], own[name], atol=1e-9) for name in theirs)
    first.unlink()  # resumed and evaluated runs have their own weights
    run("second", *still, f"resume={second / 'step-0000002.ckpt'}")
    assert "weights of" not in capsys.readouterr().out
    evaluate.run(compose([*still, "model=logistic", "trainer=cpu", "task=evaluate", f"task.from={second.parent}"]))
    with pytest.raises(ConfigError, match=r"model\.init_from"):
        run("third", *still)
