"""The fast path is the same run, or it is not taken: networks of many kinds, trained together and alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import odd_modules
import pytest
import torch

from lrflow.config import Config, compose
from lrflow.tasks import population, train
from lrflow.training.random_state import same_random_state

OPTIONS = [
    "model=custom",
    "model._target_=odd_modules.network",
    "model.loss=cross_entropy",
    "data=custom",
    "data._target_=odd_modules.Points",
    "+data.batch_size=16",
    "+data.val_size=12",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.progress=false",
    "optimizer=momentum",
    "optimizer.weight_decay=0.05",
    "layers=uniform",
    "task.test=false",
]
MEMBERS = (["seed=0", "optimizer.lr=0.05"], ["seed=1", "optimizer.lr=0.1"])

#: What the others are left to one after the other for; a network that is not listed has to train together.
ALONE = {
    "dropout_2d": "is a Dropout1d, which is not known",
    "alpha_dropout": "is a AlphaDropout, which is not known",
    "rrelu": "is a RReLU, which is not known",
    "cumulative_norm": "cannot be vectorised",
    "max_norm": "an Embedding with max_norm",
    "sparse": "an Embedding with max_norm, scale_grad_by_freq or sparse",
    "functional_padding": "it is another run than alone",
    "forward_hook": "0 has a forward hook",
    "backward_hook": "0 has a backward hook",
    "gradient_hook": "0.weight has a hook on its gradient",
    "accumulated_hook": "0.weight has a hook on its gradient",
    "old_weight_norm": "0 has a hook before its forward pass",
    "weight_normed": "0 is parametrized",
    "old_spectral_norm": "0 has a hook before its forward pass",
    "orthogonal": "0 is parametrized",
    "mixed_types": "b.weight is of float64",
    "transformer": "cannot be vectorised",
    "gru": "rnn is a GRU, which is not known",
    "one_branch": "gets a gradient in some steps only",
    "alternating": "the model changes calls as it trains",
    "layer_drop": "draws random numbers",
    "numpy_noise": "draws random numbers",
    "noise": "cannot be vectorised",
    "functional_dropout": "cannot be vectorised",
    "random_attribute": "their models differ in frequencies",
    "random_list": "their models differ in hidden",
    "running_maximum": "cannot be vectorised",
    "made_buffer": "buffers",
    "counter": "the model changes steps as it trains",
    "remembering": "the model changes last as it trains",
    "own_function": "cannot be vectorised",
    "hook_in_forward": "it is another run than alone",
    "other_data": "cannot be vectorised",
    "always_training": "draws random numbers",
    "dynamic": "cannot be vectorised",
}
FAST = ("dropout", "batch_norm", "frozen_norm", "padding", "unused", "assigned_buffer", "gradient_hook", "counter")


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRFLOW_TRUST", "odd_modules")
    torch.set_num_threads(1)


def jobs(output: Path, kind: str, *words: str, members: Any = MEMBERS) -> dict[int, Config]:
    found = {}
    for number, own in enumerate(members):
        found[number] = compose([*OPTIONS, f"+model.kind={kind}", *words, *own, f"output={output}"])
        found[number]._run_folder = output / str(number)
    return found


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(max((folder / "checkpoints").glob("step-*.ckpt")), weights_only=True)


def check_same(tmp_path: Path, kind: str, *words: str, members: Any = MEMBERS, allowed: float = 1e-3) -> list[str]:
    """Trains jobs together, and those that did also alone, and compares them; gives what was told."""
    told: list[str] = []
    found = population.train_together(
        jobs(tmp_path / "together", kind, *words, members=members), 64, False, told.append
    )
    if found:
        alone = jobs(tmp_path / "alone", kind, *words, members=members)
        for number, ended in found.items():
            assert dict(ended.metrics) == pytest.approx(metrics_of(train.run(alone[number])), rel=allowed, abs=1e-5)
            ours, theirs = (checkpoint(tmp_path / name / str(number)) for name in ("together", "alone"))
            torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=allowed, atol=1e-5)
            mine, its = ours["optimizer_states"][0]["state"], theirs["optimizer_states"][0]["state"]
            torch.testing.assert_close(mine, its, rtol=allowed, atol=1e-5)
            assert same_random_state(ours["lrflow"]["random"][0], theirs["lrflow"]["random"][0])
    return told


def metrics_of(result: Any) -> dict[str, float]:
    found = getattr(result, "metrics", result)
    return {name: value for name, value in found.items() if name != "folder"}


@pytest.mark.parametrize(
    "kind", [*FAST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in odd_modules.KINDS if kind not in FAST)]
)
def test_a_network_trains_as_it_does_alone_or_is_left_alone(kind: str, tmp_path: Path, undrawn: None) -> None:
    (told,) = check_same(tmp_path, kind)
    assert ALONE.get(kind, "train together: ") in told
