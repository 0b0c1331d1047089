"""Which prepared runs can be members of a population: what is known of them, and what a short trial of two shows."""

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
from lrflow.tasks.train import Prepared, prepare
from lrflow.training import Supervised
from lrflow.training.isolation import Snapshot
from lrflow.training.state import attribute_digests, namespaces, preserve_random_state, random_state, same_random_state
from lrflow.vectorized.eligibility import unsafe
from lrflow.vectorized.member import Member
from lrflow.vectorized.population import UnfitError
from lrflow.vectorized.updates import Steps
from lrflow.vectorized.verification import Trace, differences, telling_steps, train_alone, train_stacked

_HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device")
_NUMBERS = ("momentum", "dampening", "weight_decay")  # of which zero is another step than any number


def as_member(ready: Prepared | None) -> Member:
    """A run that was just prepared, as a member.

    Raises:
        UnfitError: it can be none.
    """
    random = random_state()
    assert ready is not None  # a new run has steps to make
    module, trainer, data = ready.module, ready.trainer, ready.data
    device = trainer.strategy.root_device.type
    if not isinstance(module, Supervised):
        raise UnfitError("the model is a LightningModule, whose training step may do anything")
    network = module.model
    groups = [[name for name, _ in group.parameters] for group in ready.groups]
    drops = any(type(one) is nn.Dropout and one.training and one.p for one in network.modules())
    compiled = any(one._compiled_call_impl is not None for one in network.modules())
    reasons = {
        "parameters are frozen": any(group.frozen for group in ready.groups) or any(ready.plan.first_steps.values()),
        "it is distributed": trainer.world_size > 1,
        f"the device is neither a CPU nor a GPU of CUDA's, but {device}": device not in ("cpu", "cuda"),
        "the data module changes batches": any(is_overridden(hook, data) for hook in _HOOKS),
        "the rules leave parameters out": {*chain(*groups)} != {name for name, _ in network.named_parameters()},
        "a GPU draws the dropout of one job": drops and device != "cpu",
        "what is compiled draws its dropout otherwise": drops and compiled,
        unsafe(network) or "": unsafe(network) is not None,
    }  # fmt: skip
    for reason, holds in reasons.items():
        if holds:
            raise UnfitError(reason)
    member = Member(trainer, module, data, ready.plan, groups, random)
    member.attach()
    return member


def check_alike(members: Sequence[Member]) -> None:
    """See that members differ in the values of weights and buffers alone.

    Raises:
        UnfitError: they differ in more.
    """
    if not members:
        return
    shapes = [
        {name: (value.shape, value.dtype) for name, value in one.module.model.state_dict().items()} for one in members
    ]
    if any(own != shapes[0] for own in shapes):
        raise UnfitError("their models have other parameters or buffers")
    try:
        held = [attribute_digests(one.module.model) for one in members]
    except ValueError as error:
        raise UnfitError(f"the model holds {error}, which cannot be compared") from error
    for own in held[1:]:
        if own != held[0]:
            name = min(name for name in {*own, *held[0]} if own.get(name) != held[0].get(name))
            raise UnfitError(f"their models differ in {name}, which is no parameter or buffer")


def load_shared(config: Config) -> pl.LightningDataModule | None:
    """The data that jobs share whatever their seeds; None: they draw random numbers, so that each seed has its own."""
    with preserve_random_state():
        pl.seed_everything(config.seed, verbose=False)
        before = random_state()
        data = assemble.load_data(config)
        return data if same_random_state(random_state(), before) else None


def shared_state(configs: Iterable[Config]) -> Snapshot:
    """What the classes and Python modules of a user's own hold now that models and data of some jobs are made by."""
    nodes = [node for config in configs for node in (config.model.node(), config.data.node())]
    targets = {target for node in nodes for target in _targets(node)}
    roots = []
    for target in targets:
        with suppress(LrflowError):  # it is told of where the job is run by itself
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
    """Train two of the jobs both ways for a few steps, and compare; it leaves nothing behind.

    Args:
        configs: of the jobs, by their numbers.
        loaded: the data that all of them share; None: each loads its own.

    Returns:
        What was done, in a line.

    Raises:
        UnfitError: the two ways differ; the message says in what.
    """
    started = time.perf_counter()
    with preserve_random_state(), ExitStack() as put_back:
        pair: dict[int, Member] = {}
        for number in _by_interest(configs):
            try:
                member = as_member(_prepared(configs[number], loaded))
            except LrflowError:
                continue  # it is told of where the job is run by itself
            if not pair or member.fits(next(iter(pair.values()))):
                pair[number] = member
            if len(pair) == 2:
                break
        if len(pair) < 2:
            raise UnfitError("no two of them can be started and are of one length")
        classes = {type(module) for member in pair.values() for module in member.module.modules()}
        put_back.callback(Snapshot(namespaces(classes)).restore)  # of classes that no `_target_` names
        check_alike(list(pair.values()))
        timeline = telling_steps([member.plan for member in pair.values()])
        traces = [_alone(configs[number], loaded, timeline) for number in pair]
        ours = dict(zip(pair, train_stacked(list(pair.values()), timeline), strict=True))
        finite = 0
        for (number, mine), its in zip(ours.items(), traces, strict=True):
            if not its.finite:
                continue
            finite += 1
            if differences(mine, its):
                nudged = _alone(configs[number], loaded, timeline, nudged=True)
                if found := differences(mine, its, nudged):
                    raise UnfitError(f"trained together it is another run than alone: in job {number} {found[0]}")
        if not finite:
            raise UnfitError("its first steps are not finite, and tell nothing")
    seconds = time.perf_counter() - started
    numbers = " and ".join(map(str, sorted(pair)))
    return f"{len(timeline)} steps of jobs {numbers} are those of the jobs alone (compared in {seconds:.1f} s)"


def _alone(config: Config, loaded: pl.LightningDataModule | None, timeline: Steps, nudged: bool = False) -> Trace:
    ready = _prepared(config, loaded)
    assert isinstance(ready.module, Supervised)
    return train_alone(ready.trainer, ready.module, ready.data, timeline, nudged)


def _prepared(config: Config, loaded: pl.LightningDataModule | None) -> Prepared:
    """A run without its loggers, validated once an epoch; uncompiled, since compiling changes roundings alone."""
    plain = {"compile": False, "val_every": Duration(1, "epochs")}
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update=plain)})
    folder = RunFolder(config.run_folder or Path(config.output))  # nothing is written
    ready = prepare(config, folder, None, [], QuietConsole(quiet=True), copy.copy(loaded))
    assert ready is not None
    return ready


def _by_interest(configs: Mapping[int, Config]) -> list[int]:
    """Jobs in the order in which to take them: that of the lowest LR, then those that differ most from it."""
    lowest = min(configs, key=lambda number: configs[number].optimizer.lr)
    rates = sorted(config.optimizer.lr for config in configs.values())
    middle = rates[len(rates) // 2]

    def unlike(number: int) -> tuple[int, float]:
        one, other = configs[lowest], configs[number]
        settings, others = one.optimizer.node(), other.optimizer.node()
        found = 4 * (one.seed != other.seed) + 2 * (one.schedule.plain() != other.schedule.plain())
        found += any(bool(settings.get(name)) != bool(others.get(name)) for name in _NUMBERS)
        return -found, abs(other.optimizer.lr - middle)

    return [lowest, *sorted((number for number in configs if number != lowest), key=unlike)]
