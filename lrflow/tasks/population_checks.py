"""Check that prepared runs can train as one population, and verify two of them against ordinary training."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn

from lrflow import assemble
from lrflow.config import Config, locate
from lrflow.display import QuietConsole
from lrflow.errors import LrflowError
from lrflow.runs import RunFolder
from lrflow.schedules import Duration
from lrflow.tasks.prepare import Prepared, prepare
from lrflow.training import Supervised
from lrflow.training.isolation import Snapshot
from lrflow.training.state import attribute_digests, namespaces, preserve_random_state, random_state, same_random_state
from lrflow.vectorized.eligibility import unsafe_because
from lrflow.vectorized.member import Member
from lrflow.vectorized.population import PopulationError
from lrflow.vectorized.updates import Steps
from lrflow.vectorized.verification import Trace, differences, representative_steps, train_alone, train_stacked

_HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device")
_SWITCHED_BY_ZERO = ("momentum", "dampening", "weight_decay")  # at zero the step is computed differently


def as_member(ready: Prepared | None) -> Member:
    """Return a run that was just prepared as a member of a population.

    Raises:
        PopulationError: the run cannot train in a population.
    """
    random = random_state()
    assert ready is not None  # None only for a resumed run
    module, trainer, data = ready.module, ready.trainer, ready.data
    device = trainer.strategy.root_device.type
    if not isinstance(module, Supervised):
        raise PopulationError("the model is a LightningModule, whose training step may do anything")
    network = module.model
    groups = [[name for name, _ in group.parameters] for group in ready.groups]
    has_dropout = any(type(one) is nn.Dropout and one.training and one.p for one in network.modules())
    compiled = any(one._compiled_call_impl is not None for one in network.modules())
    reasons = {
        "parameters are frozen": any(group.frozen for group in ready.groups)
        or any(ready.plan.first_steps.values())
        or bool(ready.plan.frozen_from),
        "groups have settings of their own": any(group.settings for group in ready.groups),
        "it is distributed": trainer.world_size > 1,
        f"the device is {device}, expected cpu or cuda": device not in ("cpu", "cuda"),
        "the data module changes batches": any(is_overridden(hook, data) for hook in _HOOKS),
        "the rules leave out parameters": {*chain(*groups)} != {name for name, _ in network.named_parameters()},
        "a GPU draws the dropout of one job": has_dropout and device != "cpu",
        "a compiled model draws its dropout differently": has_dropout and compiled,
        unsafe_because(network) or "": unsafe_because(network) is not None,
    }  # fmt: skip
    for reason, holds in reasons.items():
        if holds:
            raise PopulationError(reason)
    member = Member(trainer, module, data, ready.plan, groups, random, ready.facts)
    member.attach()
    return member


def check_same_architecture(members: Sequence[Member]) -> None:
    """Check that the models of members differ only in the values of weights and buffers.

    Raises:
        PopulationError: they differ in something else.
    """
    if not members:
        return
    shapes = [
        {name: (value.shape, value.dtype) for name, value in one.module.model.state_dict().items()} for one in members
    ]
    if any(own != shapes[0] for own in shapes):
        raise PopulationError("their models have different parameters or buffers")
    try:
        digests = [attribute_digests(one.module.model) for one in members]
    except ValueError as error:
        raise PopulationError(f"the model holds {error}, which cannot be compared") from error
    for own in digests[1:]:
        if own != digests[0]:
            name = min(name for name in {*own, *digests[0]} if own.get(name) != digests[0].get(name))
            raise PopulationError(f"their models differ in {name}, which is no parameter or buffer")


def load_shared_data(config: Config) -> pl.LightningDataModule | None:
    """Load the data that jobs share; None if loading draws random numbers, so that the data depends on the seed."""
    with preserve_random_state():
        pl.seed_everything(config.seed, verbose=False)
        before = random_state()
        data = assemble.load_data(config)
        return data if same_random_state(random_state(), before) else None


def snapshot_shared_state(configs: Iterable[Config]) -> Snapshot:
    """Take a snapshot of the user's own classes and Python modules that the models and data of some jobs use."""
    nodes = [node for config in configs for node in (config.model.node(), config.data.node())]
    targets = {target for node in nodes for target in _targets(node)}
    roots = []
    for target in targets:
        with suppress(LrflowError):  # reported when the job runs alone
            roots.append(locate(target))
    return Snapshot(namespaces(roots))


def _targets(node: Any) -> Iterator[str]:
    """The `_target_`s in plain data, at any depth."""
    if isinstance(node, Mapping):
        if isinstance(target := node.get("_target_"), str):
            yield target
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


def verify(configs: Mapping[int, Config], loaded: pl.LightningDataModule | None) -> str:
    """Train two of the jobs for a few steps both as a population and alone, and compare the results.

    The runs are discarded; random number generators and shared state are restored.

    Args:
        configs: the configurations of the jobs, by job number.
        loaded: the data that all of them share; None: each loads its own.

    Returns:
        A line that describes the comparison.

    Raises:
        PopulationError: the results differ; the message names the first difference.
    """
    started = time.perf_counter()
    with preserve_random_state(), ExitStack() as restoring:
        pair: dict[int, Member] = {}
        for number in _order_of_verification(configs):
            try:
                member = as_member(_prepared(configs[number], loaded))
            except LrflowError:
                continue  # reported when the job runs alone
            if not pair or member.is_compatible_with(next(iter(pair.values()))):
                pair[number] = member
            if len(pair) == 2:
                break
        if len(pair) < 2:
            raise PopulationError("no two of them can start and have the same length")
        classes = {type(module) for member in pair.values() for module in member.module.modules()}
        restoring.callback(Snapshot(namespaces(classes)).restore)  # for classes that no `_target_` names
        check_same_architecture(list(pair.values()))
        timeline = representative_steps([member.plan for member in pair.values()])
        traces = [_train_alone(configs[number], loaded, timeline) for number in pair]
        together = dict(zip(pair, train_stacked(list(pair.values()), timeline), strict=True))
        finite = 0
        for (number, member_trace), alone in zip(together.items(), traces, strict=True):
            if not alone.finite:
                continue
            finite += 1
            if differences(member_trace, alone):
                nudged = _train_alone(configs[number], loaded, timeline, nudged=True)
                if found := differences(member_trace, alone, nudged):
                    raise PopulationError(f"training together changes the run: in job {number} {found[0]}")
        if not finite:
            raise PopulationError("its first steps are not finite, so that nothing can be compared")
    seconds = time.perf_counter() - started
    numbers = " and ".join(map(str, sorted(pair)))
    return f"{len(timeline)} steps of jobs {numbers} equal those of the jobs alone (compared in {seconds:.1f} s)"


def _train_alone(config: Config, loaded: pl.LightningDataModule | None, timeline: Steps, nudged: bool = False) -> Trace:
    ready = _prepared(config, loaded)
    assert isinstance(ready.module, Supervised)
    return train_alone(ready.trainer, ready.module, ready.data, timeline, nudged)


def _prepared(config: Config, loaded: pl.LightningDataModule | None) -> Prepared:
    """Prepare a run without loggers, with one validation per epoch, and uncompiled: compiling only changes rounding."""
    plain = {"compile": False, "val_every": Duration(1, "epochs")}
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update=plain)})
    folder = RunFolder(config.run_folder or Path(config.output))  # nothing is written
    ready = prepare(config, folder, None, [], QuietConsole(quiet=True), copy.copy(loaded))
    assert ready is not None
    return ready


def _order_of_verification(configs: Mapping[int, Config]) -> list[int]:
    """Sort jobs for verification: the one with the lowest LR first, then those that differ most from it."""
    lowest = min(configs, key=lambda number: configs[number].optimizer.lr)
    rates = sorted(config.optimizer.lr for config in configs.values())
    middle = rates[len(rates) // 2]

    def similarity(number: int) -> tuple[int, float]:
        one, other = configs[lowest], configs[number]
        settings, others = one.optimizer.node(), other.optimizer.node()
        found = 4 * (one.seed != other.seed) + 2 * (one.schedule.plain() != other.schedule.plain())
        found += any(bool(settings.get(name)) != bool(others.get(name)) for name in _SWITCHED_BY_ZERO)
        return -found, abs(other.optimizer.lr - middle)

    return [lowest, *sorted((number for number in configs if number != lowest), key=similarity)]
