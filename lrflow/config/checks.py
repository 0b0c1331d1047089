"""What no single key can tell: whether targets take their arguments, and whether the parts of a run fit together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from lrflow.config.catalogue import shipped_keys
from lrflow.config.config import Config
from lrflow.config.schema import Data, Model, Rules
from lrflow.config.spelling import closest
from lrflow.config.targets import CONTROLS, check_arguments, check_name, locate
from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Horizon, Schedule


def check_targets(content: Mapping[str, Any]) -> list[Problem]:
    """Every `_target_` of the config: may it be built, and does it take what it is given?"""
    problems: list[Problem] = []
    for group, (extra, ignore) in PASSED.items():
        for key, node in _nodes(content.get(group), group):
            top = key == group
            problems += check_node(node, key, group, extra if top else (), ignore if top else ())
    return problems


PASSED: dict[str, tuple[Collection[str], Collection[str]]] = {
    "optimizer": (("params",), ("fused",)),
    "model": ((), Model.offered),
    "data": ((), Data.offered),
    "layers": ((), ()),
    "logger": (("save_dir", "name", "version"), ()),
}
"""By group: the arguments that lrflow passes itself, and the keys that it reads and does not pass on.

`schedule` is not among them: building it (it needs no torch) checks more than its signature would.
"""


def _nodes(content: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(content, Mapping):
        if "_target_" in content:
            yield key, content
        for name, value in content.items():
            if name != "schedule":
                yield from _nodes(value, f"{key}.{name}")
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _nodes(value, f"{key}[{index}]")


def check_node(
    node: Mapping[str, Any], key: str, group: str, extra: Collection[str], ignore: Collection[str]
) -> list[Problem]:
    """One node with a `_target_`.

    What lrflow's own options say needs no look at the signature, and a misspelt key of theirs is told without one;
    everything else is held against the signature, which imports the target.
    """
    target = node["_target_"]
    if problem := check_name(target, f"{key}._target_"):
        return [problem]
    known = shipped_keys(group).get(target)
    if known is None:
        return check_arguments(target, node, key, extra, ignore)
    names = [name for name in known if name not in CONTROLS]
    problems = []
    for name in node.keys() - known - set(ignore) - set(CONTROLS):
        meant = closest(name, names)
        if meant is None:
            return check_arguments(target, node, key, extra, ignore)
        hint = f"did you mean {key}.{meant}?"
        problems.append(Problem(f"{key}.{name}", f"{target} takes no {name}", node[name], hint))
    return problems


def declared_horizon(config: Config) -> Horizon | None:
    """How long the run is as far as the config tells, before data is read; None where it does not tell.

    Raises:
        ConfigError: what it tells cannot be.
    """
    own, trainer, data = config.horizon, config.trainer, config.data
    if own.steps is not None:
        return Horizon(own.steps, own.steps_per_epoch)
    examples = data.facts.examples if data.facts else None
    if examples is None or data.batch_size is None or not isinstance(trainer.devices, int | list):
        return None
    devices = len(trainer.devices) if isinstance(trainer.devices, list) else trainer.devices
    left = examples - data.val_size - data.test_size
    if left <= 0:
        message = f"with test_size={data.test_size} nothing is left to train on of {examples} examples"
        raise ConfigError([Problem("data.val_size", message, data.val_size)])
    try:
        return Horizon.count(
            left,
            batch_size=data.batch_size,
            drop_last=data.drop_last,
            devices=devices * trainer.num_nodes,
            accumulate=trainer.accumulate_grad_batches,
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            limit_batches=1.0 if trainer.limit_train_batches is None else trainer.limit_train_batches,
        )
    except ValueError as error:
        raise ConfigError([Problem("data.batch_size", str(error), data.batch_size)]) from None


def check_length(config: Config) -> list[Problem]:
    """Does the run end, and is there a whole batch to train on?"""
    trainer, data = config.trainer, config.data
    if config.horizon.steps is not None:
        return []
    if trainer.max_epochs is None and trainer.max_steps is None:
        return [Problem("trainer.max_epochs", "the run would never end", None, "give max_epochs or max_steps")]
    try:
        declared_horizon(config)
    except ConfigError as error:
        return error.problems
    if data.facts and data.facts.examples and data.batch_size:
        left = data.facts.examples - data.val_size - data.test_size
        if data.batch_size > left:
            message = f"is larger than the {left} examples there are to train on"
            return [Problem("data.batch_size", message, data.batch_size)]
    return []


def check_schedules(config: Config) -> list[Problem]:
    """The run's schedule and those of rules: can they be built, and do they fit into the run?"""
    try:
        horizon = declared_horizon(config)
    except (ConfigError, TypeError):
        horizon = None
    specs = [("schedule", config.schedule.node())]
    if isinstance(config.layers, Rules):
        specs += [
            (f"layers.rules[{index}].schedule", rule.schedule.node())
            for index, rule in enumerate(config.layers.rules)
            if rule.schedule is not None
        ]
    problems: list[Problem] = []
    for key, spec in specs:
        try:
            schedule = Schedule.from_spec(spec, key, _shape_class(key, problems))
        except ConfigError as error:
            problems += [p for p in error.problems if p.key not in {known.key for known in problems}]
        else:
            if horizon is not None:
                problems += schedule.check(horizon, key)
    return problems


def _shape_class(key: str, problems: list[Problem]) -> Callable[[str], type]:
    """Looks up the class of a schedule or a shape; what is wrong with it is noted under its own key."""

    def resolve(target: str) -> type:
        try:
            found = locate(target, f"{key}._target_")
        except ConfigError as error:
            raise ValueError(error.problems[0].message) from None
        if not isinstance(found, type):
            raise ValueError("is not a class")
        return found

    return resolve


def check_uses(config: Config) -> list[Problem]:
    """Keys that are given and would have no effect, and settings that exclude each other."""
    problems = []
    if config.task.name != "plan":
        for key, value in (("horizon.steps", config.horizon.steps), ("against", config.against)):
            if value is not None:
                problems.append(Problem(key, "only task=plan reads it", value, "add task=plan, or leave it out"))
    if config.resume.horizon is not None and config.resume.source is None:
        message = "only a resumed run reads it"
        problems.append(Problem("resume.horizon", message, config.resume.horizon, "add resume=last or resume=PATH"))
    optimizer = config.optimizer
    if optimizer.nesterov and (optimizer.momentum == 0 or optimizer.dampening != 0):
        problems.append(Problem("optimizer.nesterov", "needs momentum above 0 and dampening 0", True))
    return problems


LENGTH = (
    "trainer.max_",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accumulate",
    "trainer.limit_train",
    "data.",
    "horizon",
)
"""What the length of a run is made of, as beginnings of keys."""

CHECKS: tuple[tuple[Callable[[Config], list[Problem]], tuple[str, ...]], ...] = (
    (check_length, LENGTH),
    (check_schedules, ("schedule", "layers", *LENGTH)),
    (check_uses, ("task", "horizon", "against", "resume", "optimizer")),
)
"""Each check, and the beginnings of the keys that must be sound for it to mean anything."""


def check(content: Mapping[str, Any], config: Config | None, failed: Collection[str]) -> list[Problem]:
    """Everything that the single keys could not tell.

    Args:
        content: the resolved config.
        config: the typed config, if the schemas found nothing.
        failed: keys that are known to be wrong; nothing is concluded from them.
    """
    problems = [p for p in check_targets(content) if p.key not in failed]
    if config is None:
        return problems
    failed = {*failed, *(problem.key for problem in problems)}
    for run, parts in CHECKS:
        if not any(key.startswith(parts) for key in failed):
            problems += run(config)
    return problems
