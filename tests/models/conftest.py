from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lrflow.data import Digits
from lrflow.layers import Rule, resolve
from lrflow.optimizers import build_optimizer
from lrflow.schedules import Cosine, Horizon, Schedule


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def accuracy() -> Callable[[nn.Module, int, int], float]:
    """(model, seed, epochs) -> test accuracy on digits after lrflow's default training, in a bare loop."""
    digits = Digits()
    digits.prepare_data()
    digits.setup("fit")
    digits.setup("test")
    inputs, labels = digits.train_set.tensors
    test_inputs, test_labels = digits.test_set.tensors
    rules = [Rule("no_decay", select=["bias", "norm"], weight_decay=0.0), Rule("decay", match="*")]

    def run(model: nn.Module, seed: int, epochs: int) -> float:
        peak = 3e-3
        config = {"lr": peak, "weight_decay": 0.05, "fused": "auto"}
        optimizer = build_optimizer(resolve(model, rules, lr=peak), config, torch.optim.AdamW)
        generator = torch.Generator().manual_seed(seed)
        per_epoch = -(-len(labels) // 64)
        lrs = peak * Schedule(Cosine(), warmup="5%")(range(epochs * per_epoch), Horizon(epochs * per_epoch, per_epoch))
        model.train()
        for step, lr in enumerate(lrs):
            if step % per_epoch == 0:
                batches = torch.randperm(len(labels), generator=generator).split(64)
            for group in optimizer.param_groups:
                group["lr"] = float(lr)
            batch = batches[step % per_epoch]
            optimizer.zero_grad()
            cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            return float((model(test_inputs).argmax(1) == test_labels).float().mean())

    return run
