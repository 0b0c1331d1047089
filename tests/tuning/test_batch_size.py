"""The search for the batch size: its bisection, what it measures, and memory that runs out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrflow.api import find, train
from lrflow.cli import main
from lrflow.config import compose
from lrflow.errors import ConfigError, LrflowError
from lrflow.tuning import batch_size
from lrflow.tuning.batch_size import FINEST, Try, saturated_size, search_sizes
from lrflow.tuning.batch_size_record import BatchSizes

SMALL = ["task=find", "find=batch_size", "find.steps=3", "trainer.accelerator=cpu", "model=logistic"]


@given(st.integers(0, 3000), st.integers(1, 300), st.integers(1, 3000))
def test_the_search_ends_at_the_largest_size_that_fits(holds: int, start: int, most: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        assert 1 <= size <= most
        assert size not in tried
        assert all(size < other for other in tried if other > holds)
        tried.append(size)
        return size <= holds

    found, truth = search_sizes(fits, start, most), min(holds, most)
    assert found <= truth
    assert found == truth or truth - found < max(1, found // (FINEST // 2))
    assert found == 0 or found in tried
    assert len(tried) <= 12 + 12 + 6


def test_throughput_saturates_at_the_smallest_size_within_five_percent() -> None:
    tries = [Try(8, 100.0), Try(16, 190.0), Try(32, 196.0), Try(64, 200.0), Try(128)]
    assert saturated_size(tries) == 16
    assert saturated_size(tries[:1]) == 8


def test_what_is_recommended() -> None:
    tries = [Try(8, 100.0, 0.1), Try(64, 200.0, 0.1), Try(96, 199.0, 0.1), Try(128, reason="out of memory")]
    assert BatchSizes(tries, 1000, 0.1).largest_to_use == 86
    assert BatchSizes(tries, 1000, 0).largest_to_use == 96
    assert BatchSizes(tries, 96, 0.1).largest_to_use == 96  # memory is not what limits it
    assert "which is the number of training examples" in BatchSizes(tries, 96, 0.1, find_max=500).lines()[0]
    assert "which is find.max" in BatchSizes(tries, 96, 0.1, find_max=96).lines()[0]
    assert BatchSizes(tries, 1000, 0.1).fastest_to_use == 64
    assert BatchSizes(tries, 1000, 0.5).fastest_to_use == 48
    assert BatchSizes(tries, 1000, 0.1, effective=1000).largest_to_use == 50  # the largest divisor
    assert (
        BatchSizes(tries, 1000, 0.1, 128).about_configured()
        == "data.batch_size=128 does not fit: the largest that does is 96"
    )
    assert "64 fits, with 100%" in str(BatchSizes(tries, 1000, 0.1, 64).about_configured())


class Hungry(torch.nn.Module):
    """Has memory for 100 examples in training; checks that no model of an earlier size is left."""

    error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    most = 100
    alive = 0

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(64, 10)
        type(self).alive += 1
        assert self.alive == 1

    def __del__(self) -> None:
        type(self).alive -= 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise type(self.error)(*self.error.args)
        result: torch.Tensor = self.head(x.flatten(1))
        return result


HUNGRY = [
    "model=custom",
    f"model._target_={__name__}.Hungry",
    "model.loss=cross_entropy",
    f"trust={__name__.split('.')[0]}",
]


@pytest.fixture
def _mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    Hungry.alive = 0


ERRORS = [
    Hungry.error,
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.usefixtures("_mine")
def test_memory_that_runs_out_ends_the_growth(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "error", error)
    found = find(*SMALL, *HUNGRY, "find.min=64", "find.margin=0")
    assert found.batch_size == 100
    content = json.loads((found.folder / "find.json").read_text())
    assert (content["largest"], content["limited_by_memory"], content["configured"]) == (100, True, 64)


@pytest.mark.usefixtures("_mine")
def test_another_error_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "error", RuntimeError("index out of range"))
    with pytest.raises(RuntimeError, match="index out of range"):
        find(*SMALL, *HUNGRY, "find.min=64")


@pytest.mark.usefixtures("_mine")
def test_what_the_command_prints_and_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*SMALL, *HUNGRY, "find.min=64", "optimizer.lr=0.01"]) == 0
    shown = capsys.readouterr().out
    assert "data.batch_size=90  100 is the largest that fits, less 10%" in shown
    assert "scaling.reference=64 scaling=linear 0.0141 and scaling=sqrt 0.0119 (90 examples per step)" in shown
    (folder,) = (tmp_path / "outputs").iterdir()
    assert {path.name for path in folder.glob("find.*")} == {"find.csv", "find.json", "find.png"}
    header, *rows = (folder / "find.csv").read_text().splitlines()
    assert header.startswith("batch_size,fits,examples_per_second")
    assert [row.split(",")[:2] for row in rows if row.startswith(("64", "100", "128"))] == [
        ["64", "true"],
        ["100", "true"],
        ["128", "false"],
    ]
    assert rows[-1] == "128,false,,,,out of memory"


@pytest.mark.usefixtures("_mine")
def test_not_even_one_example_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "most", 0)
    with pytest.raises(LrflowError, match="a batch of one example does not fit"):
        find(*SMALL, *HUNGRY, "find.min=2")


@pytest.mark.usefixtures("_mine")
def test_a_run_is_the_same_after_a_check_of_its_batch_size(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["model=mlp", "trainer.max_steps=5", "trainer.accelerator=cpu", "data.batch_size=200"]
    plain = train(*short)
    checked = train(*short, "find=batch_size", "find.check=true", "find.min=100", "find.max=200", "find.steps=3")
    assert plain.metrics == checked.metrics
    assert "data.batch_size=200 fits, with" in capsys.readouterr().out
    assert (checked.folder / "find.csv").exists()


class Fixed(pl.LightningDataModule):
    """Has examples of its own, in batches of a size that may not be the one it was given."""

    def __init__(self, batch_size: int = 4, always: int | None = None, stream: bool = False) -> None:
        super().__init__()
        self.size, self.stream = always or batch_size, stream

    def train_dataloader(self) -> DataLoader[Any]:
        examples = TensorDataset(torch.ones(40, 64), torch.zeros(40, dtype=torch.long))
        return DataLoader(Endless(examples) if self.stream else examples, self.size, drop_last=False)


class Endless(IterableDataset[Any]):
    """Examples without an end."""

    def __init__(self, examples: TensorDataset) -> None:
        self.examples = examples

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from (self.examples[index] for index in range(len(self.examples)))


class Sized(pl.LightningDataModule):
    """Takes no batch size."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(40, 64), torch.zeros(40, dtype=torch.long)), 4)


OWN = [*SMALL, *HUNGRY, "data=custom", "trainer.max_epochs=2", "find.min=16"]


@pytest.mark.usefixtures("_mine")
def test_data_of_ones_own(problems_raised: Callable[..., list[Any]]) -> None:
    fixed = [*OWN, f"data._target_={__name__}.Fixed"]
    assert find(*fixed).batch_size == 40  # all examples; 16 leaves a last batch of 8
    assert find(*fixed, "data.stream=true", "trainer.max_steps=3", "find.max=20").batch_size == 20
    mistakes = {
        (f"data._target_={__name__}.Sized",): ("find", "has no argument batch_size"),
        (f"data._target_={__name__}.Fixed", "data.always=5"): ("find", "with 16 the batches of Fixed have 5"),
        (
            f"data._target_={__name__}.Fixed",
            "data.stream=true",
            "trainer.max_steps=3",
        ): ("find.max", "has no length"),
    }
    for words, (key, message) in mistakes.items():
        (problem,) = problems_raised(lambda words=words: find(*OWN, *words))
        assert problem.key == key
        assert message in str(problem)


@pytest.fixture
def problems_raised() -> Callable[..., list[Any]]:
    def raised(make: Callable[[], Any]) -> list[Any]:
        with pytest.raises(ConfigError) as info:
            make()
        return info.value.problems

    return raised


@pytest.mark.parametrize(
    ("words", "key", "hint"),
    [
        (["find.max=4"], "find.max", "at least find.min = 8"),
        (["find.margin=100%"], "find.margin", "a share below 1"),
        (["find.steps=2"], "find.steps", "at least 3"),
        (["find.min=0"], "find.min", "above 0"),
        (["trainer=ddp"], "trainer.devices", "trainer.devices=1"),
        (["find.low=1"], "find.low", ""),
        (["optimizer.lr=auto"], "optimizer.lr", "find=range"),
    ],
)
def test_impossible_options(words: list[str], key: str, hint: str, problems_raised: Callable) -> None:
    problems = problems_raised(lambda: compose(["task=find", "find=batch_size", *words]))
    assert key in [problem.key for problem in problems]
    assert hint in "\n".join(map(str, problems))


@pytest.mark.usefixtures("_mine")
def test_accumulated_steps_are_tried_with_two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    fit = batch_size.short_fit

    def short_fit(config: Any, *rest: Any, **more: Any) -> Any:
        counts.append((config.data.batch_size, config.trainer.accumulate_grad_batches))
        return fit(config, *rest, **more)

    monkeypatch.setattr(batch_size, "short_fit", short_fit)
    more = ["data.effective_batch_size=960", "data.batch_size=96", "find.min=64", "average=ema", "model=logistic"]
    assert find(*SMALL, *more, "find.max=150").batch_size == 120  # the largest divisor of 960
    assert counts == [(64, 2), (128, 2), (150, 2), (96, 2)]


WIDE = """
import torch

class Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(64, 10)

    def forward(self, x):
        held = torch.ones(len(x), 9 * 2**18)
        return self.head(x.flatten(1)) + (held * self.head.bias[:1]).mean() * 0
"""

LIMITED = """
import json, pathlib, resource, sys
from lrflow import memory
from lrflow.cli import main

words = ["task=find", "find=batch_size", "find.steps=3", "find.min=4", "trainer.accelerator=cpu", "find.margin=0"]
words += ["model=custom", "model._target_=wide.Wide", "model.loss=cross_entropy", "trust=wide"]
assert main([*words, "find.max=8"]) == 0  # everything is imported
if sys.argv[1] == "blind":
    sys.modules["lrflow.tuning.batch_size"].available_memory = lambda: None
held = memory._kilobytes(memory._PROCESS / "status", "VmSize")
resource.setrlimit(resource.RLIMIT_AS, (held + 330 * 2**20,) * 2)
assert main([*words, "find.max=1000", "output=limited"]) == 0
(folder,) = pathlib.Path("limited").iterdir()
print(json.loads((folder / "find.json").read_text())["largest"], (folder / "find.csv").read_text().splitlines()[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_AS")
@pytest.mark.parametrize(("way", "why"), [("foreseen", "needs"), ("blind", "out of memory")])
def test_a_real_limit_of_the_address_space(way: str, why: str, python: Callable[..., Any], tmp_path: Path) -> None:
    """330 MiB hold 9 MiB, and 27 in the backward pass, for each of 8 examples, but not of 16.

    The blocks of each size are so large that the C library returns them to the machine as soon as they are freed.
    """
    (tmp_path / "wide.py").write_text(WIDE)
    (tmp_path / "job.py").write_text(LIMITED)
    job = python("job.py", way, cwd=tmp_path)
    out, told = job.communicate(timeout=120)
    assert job.returncode == 0, told
    size, _, last = out.splitlines()[-1].partition(" ")
    assert 8 <= int(size) < 16
    assert why in last
