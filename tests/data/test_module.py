from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import RandomSampler, SequentialSampler

from lrflow.data import DataModule, ordered
from lrflow.data.module import Examples
from lrflow.data.splits import stratified_order
from lrflow.errors import ConfigError, LrflowError


class Numbers(DataModule):
    """Example i is the number i, of class i % 3."""

    def __init__(self, count: int = 30, own_test: int | None = None, **options: Any) -> None:
        super().__init__(**{"batch_size": 4, **options})
        self.count = count
        self.own_test = own_test
        self.loads = 0

    def load(self) -> tuple[Examples, Examples | None]:
        self.loads += 1
        return self.numbers(self.count), None if self.own_test is None else self.numbers(self.own_test)

    @staticmethod
    def numbers(count: int) -> Examples:
        return Examples(torch.arange(count)[:, None], torch.arange(count) % 3)


def numbers_in(part: Any) -> set[int]:
    return set(part.tensors[0].flatten().int().tolist())


def set_up(**options: Any) -> Numbers:
    module = Numbers(**options)
    module.setup()
    return module


def test_parts_are_disjoint_and_complete() -> None:
    module = set_up(val_size=6, test_size=9)
    train, val, test = map(numbers_in, (module.train_set, module.val_set, module.test_set))
    assert (len(train), len(val), len(test)) == (15, 6, 9)
    assert train | val | test == set(range(30))
    in_the_datas_order = module.train_set.tensors[0].flatten().tolist()
    assert in_the_datas_order == sorted(in_the_datas_order)


def test_held_out_examples_depend_only_on_the_split_seed() -> None:
    torch.manual_seed(1)
    first = set_up(val_size=6, test_size=9)
    torch.manual_seed(2)
    np.random.seed(2)
    same, other = set_up(val_size=6, test_size=9, batch_size=2), set_up(val_size=6, test_size=9, split_seed=1)
    assert numbers_in(first.val_set) == numbers_in(same.val_set)
    assert numbers_in(first.val_set) != numbers_in(other.val_set)
    # More or less validation does not move the test part.
    assert numbers_in(first.test_set) == numbers_in(set_up(val_size=0, test_size=9).test_set)


def test_a_test_part_of_the_datas_own_is_used() -> None:
    module = set_up(own_test=5, val_size=6)
    assert numbers_in(module.test_set) == set(range(5))
    assert len(module.train_set) == 24
    with pytest.raises(ConfigError, match=r"data\.test_size = 3: the data has a test part of its own"):
        set_up(own_test=5, test_size=3)


def test_normalisation_is_fitted_to_the_training_part_alone() -> None:
    class Centred(Numbers):
        def fit_normalisation(self, inputs: torch.Tensor) -> None:
            self.mean = inputs.float().mean()

        def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.float() - self.mean

    module, raw = Centred(val_size=6, test_size=9), set_up(val_size=6, test_size=9)
    module.setup()
    mean = raw.train_set.tensors[0].mean()
    assert mean != torch.arange(30.0).mean()  # else the test could not tell
    for part in ("train_set", "val_set", "test_set"):
        torch.testing.assert_close(getattr(module, part).tensors[0], getattr(raw, part).tensors[0] - mean)


def test_the_data_is_read_once() -> None:
    module = Numbers()
    for stage in ("fit", "validate", "test", None):
        module.setup(stage)
    assert module.loads == 1


def test_training_is_shuffled_and_evaluation_in_order() -> None:
    module = set_up(val_size=6, test_size=9, eval_batch_size=5, drop_last=True)
    train, val, test = module.train_dataloader(), module.val_dataloader(), module.test_dataloader()
    assert isinstance(train.sampler, RandomSampler)
    assert isinstance(val.sampler, SequentialSampler)
    assert isinstance(test.sampler, SequentialSampler)
    assert [len(batch[1]) for batch in train] == [4, 4, 4]
    assert [len(batch[1]) for batch in val] == [5, 1]


def test_the_evaluation_batch_size_defaults_to_the_training_one() -> None:
    assert [len(batch[1]) for batch in set_up(val_size=6).val_dataloader()] == [4, 2]


def test_loaders_before_setup_raise_an_error() -> None:
    with pytest.raises(RuntimeError, match="setup"):
        Numbers().train_dataloader()


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_with_and_without_parts_held_out() -> None:
    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 3)
            self.validated = self.tested = 0

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
            self.validated += len(batch[0])

        def test_step(self, batch: list[torch.Tensor], index: int) -> None:
            self.tested += len(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    for sizes in ({"val_size": 6, "test_size": 9}, {}):
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        model, module = Model(), Numbers(**sizes)
        trainer.fit(model, module)
        trainer.test(model, module)
        assert (model.validated, model.tested) == (sizes.get("val_size", 0), sizes.get("test_size", 0))


# What is checked


def problems(**options: Any) -> set[str]:
    with pytest.raises(ConfigError) as raised:
        set_up(**options)
    return {problem.key for problem in raised.value.problems}


def test_all_invalid_options_are_reported_at_once() -> None:
    assert problems(batch_size=0, eval_batch_size=-1, val_size=-5, test_size=1.5, num_workers="2", split_seed=None) == {
        "data.batch_size",
        "data.eval_batch_size",
        "data.val_size",
        "data.test_size",
        "data.num_workers",
        "data.split_seed",
    }
    assert problems(batch_size=True) == {"data.batch_size"}
    assert problems(split_seed=2**32) == {"data.split_seed"}
    assert problems(num_workers=100_000) == {"data.num_workers"}


def test_options_too_large_for_the_data_are_reported() -> None:
    assert problems(val_size=30) == {"data.val_size"}
    assert problems(val_size=10, test_size=25) == {"data.test_size"}
    assert problems(val_size=20, batch_size=11) == {"data.batch_size"}
    assert len(set_up(val_size=20, batch_size=10).train_dataloader()) == 1


def test_an_empty_data_set_is_reported() -> None:
    assert problems(count=0) == {"data"}


def test_facts_that_the_data_does_not_have_are_reported() -> None:
    true = {"examples": 30, "shape": (1,), "outputs": 3, "loss": "cross_entropy"}
    assert set_up(facts=true).facts["examples"] == 30
    wrong = {"examples": 31, "shape": [2], "outputs": 4}
    assert problems(facts=wrong) == {"data.facts.examples", "data.facts.shape", "data.facts.outputs"}


def test_facts_let_sizes_be_checked_before_the_data_is_read() -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size = 25"):
        Numbers(batch_size=25, val_size=6, facts={"examples": 30})


# The split


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 2**32 - 1), st.data())
def test_every_part_of_the_order_holds_the_classes_in_proportion(
    classes: list[int], seed: int, data: st.DataObject
) -> None:
    targets = np.array(classes)
    order = stratified_order(targets, seed)
    assert sorted(order) == list(range(len(targets)))
    stop = data.draw(st.integers(0, len(targets)))
    kinds, counts = np.unique(targets, return_counts=True)
    for kind, count in zip(kinds, counts, strict=True):
        # Webster's method can stray from the exact quota, but hardly: 1 for few classes of like size.
        assert abs((targets[order[:stop]] == kind).sum() - stop * count / len(targets)) < 2


def test_within_a_class_the_order_is_shuffled() -> None:
    first = {int(stratified_order(np.zeros(10, int), seed)[0]) for seed in range(200)}
    assert first == set(range(10))


def test_targets_that_are_no_classes_are_shuffled() -> None:
    order = stratified_order(np.linspace(0, 1, 20), seed=0)
    assert sorted(order) == list(range(20))
    assert order.tolist() != list(range(20))


def test_a_class_may_have_its_own_collate_fn() -> None:
    class Sums(Numbers):
        collate_fn = staticmethod(lambda batch: sum(int(number) for number, _ in batch))

    module = Sums(val_size=6, test_size=9)
    module.setup()
    assert sum(module.train_dataloader()) == sum(numbers_in(module.train_set))
    assert sum(ordered(module.train_dataloader(), seed=0)) == sum(numbers_in(module.train_set))


X, Y = torch.zeros(30, 1), torch.zeros(30)


@pytest.mark.parametrize(
    ("loaded", "told"),
    [
        (None, "returned NoneType, expected examples and test examples or None"),
        (Examples(X, Y), "returned Examples, expected examples and"),
        ((Examples(X, Y), None, None), "returned 3 values"),
        ((X, Y), "returned Tensor as examples, expected lrflow.data.Examples"),
        ((Examples(X, Y), (X, Y)), "returned tuple as test examples"),
        ((Examples(X.numpy(), Y), None), "returned inputs of examples as ndarray, expected a tensor"),
        ((Examples(X, Y.tolist()), None), "returned targets of examples as list"),
        ((Examples(X, Y[:7]), None), "returned 30 inputs and 7 targets as examples"),
    ],
)
def test_load_returns_something_else(loaded: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbers, "load", lambda self: loaded)
    with pytest.raises(LrflowError, match=rf"^Numbers\.load {told}"):
        set_up()


def test_normalise_returns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbers, "normalise", lambda self, inputs: None)
    with pytest.raises(LrflowError, match=r"^Numbers\.normalise returned NoneType, expected a tensor of \d+ examples"):
        set_up()
