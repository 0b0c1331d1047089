"""What no single key can tell: whether targets take their arguments, and whether the parts of a run fit together.

Settings of the optimizer that `schedule.also` moves: does the optimizer have them?

Rules that unfreeze their groups: whether the run is long enough, and whether anything trains from its start.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lrflow.config.compatibility import check_combination, check_mup, check_routes, check_scaling
from lrflow.config.config import Config
from lrflow.config.diagnostics import answered, closest
from lrflow.config.find_schema import RangeFind
from lrflow.config.length import declared_horizon
from lrflow.config.metrics import check_feedback, check_limits
from lrflow.config.options import shipped_keys
from lrflow.config.packages import check_installed
from lrflow.config.run_schema import Health, Train
from lrflow.config.schema import Data, Model, Optimizer, Rules, Schedule
from lrflow.config.signatures import parameters_in_source
from lrflow.config.targets import CONTROLS, check_arguments, check_name, defaults, locate
from lrflow.errors import ConfigError, Problem
from lrflow.layers import Rule
from lrflow.metric import is_validation
from lrflow.schedules import Curve, Duration, Horizon, Shape
from lrflow.schedules._arguments import uncountable_hint
from lrflow.schedules.base import highest_settings, numeric_settings


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """The settings of an optimizer, those that its signature gives among them, and under `routes` those of the others.

    It imports the optimizer.
    """
    routes = {name: settings_of(route) for name, route in optimizer.routes.items()}
    return {**defaults(optimizer.target), **optimizer.node(), "routes": routes}


def check_also(curve: Curve, key: str, optimizer: Optimizer, decays: bool) -> list[Problem]:
    """What a schedule moves that the optimizer does not have; nothing is imported where the config tells.

    Args:
        curve: the schedule.
        key: where it stands.
        optimizer: of the run.
        decays: whether layer rules set weight decays of their own.
    """
    problems = []
    for entry, _ in curve.split_settings()[1]:
        if entry.optional:
            continue
        known = highest_settings(numeric_settings(each.node()) for each in (optimizer, *optimizer.routes.values()))
        if entry.setting(known) is None:
            settings = settings_of(optimizer)
            known = highest_settings(numeric_settings(each) for each in (settings, *settings["routes"].values()))
        if entry.name == "weight_decay" and decays and not known.get("weight_decay"):
            continue
        problems += entry.check(known, f"{key}.also.{entry.name}")
    return problems


_NEVER = "the group would never train"
_SHORTER = "the LR would never come to what the schedule says"


def check_freezing(rules: Sequence[Rule], horizon: Horizon | None) -> list[Problem]:
    """What this run has no room for.

    Args:
        rules: of the config.
        horizon: how long the run is; None where that is not known.
    """
    problems = []
    for index, rule in enumerate(rules):
        problems += _check_rule(rule, f"layers.rules[{index}]", horizon)
    trained = [rule for rule in rules if not rule.freeze]
    late = [rule for rule in trained if rule.unfreeze is not None and Duration.parse(rule.unfreeze).value]
    if trained and not problems and late == trained:
        hint = "one group has to train from the first step on: leave out its unfreeze"
        problems.append(
            Problem("layers.rules", "nothing would train at first: every group is unfrozen later", ..., hint)
        )
    return problems


def _check_rule(rule: Rule, key: str, horizon: Horizon | None) -> list[Problem]:
    if rule.unfreeze is None:
        return []
    start, warmup = Duration.parse(rule.unfreeze), Duration.parse(rule.unfreeze_warmup)
    if horizon is None:
        if start.unit == "fraction" and start.value >= 1:
            return [Problem(f"{key}.unfreeze", "is no less than the whole run", str(rule.unfreeze), _NEVER)]
        return []
    try:
        first, last = start.steps(horizon), start.steps(horizon) + warmup.steps(horizon)
    except ValueError as error:
        return [Problem(f"{key}.unfreeze", str(error), str(rule.unfreeze), uncountable_hint(start))]
    if first >= horizon.steps:
        message = f"is {first} steps, but the run has only {horizon.steps}"
        return [Problem(f"{key}.unfreeze", message, str(rule.unfreeze), _NEVER)]
    if last >= horizon.steps:
        message = f"is over at step {last}, but the run has only {horizon.steps}"
        return [Problem(f"{key}.unfreeze_warmup", message, str(rule.unfreeze_warmup), _SHORTER)]
    return []


FEWEST_RUNS = 3
"""Of `find.confirm`."""


def check_targets(content: Mapping[str, Any], choices: Mapping[str, str | None]) -> list[Problem]:
    """Every `_target_` of the config: may it be built, is it installed, and does it take what it is given?"""
    problems: list[Problem] = []
    for group in GROUPS:
        extra, ignore = PASSED.get(group, ((), ()))
        for key, node in _nodes(content.get(group), group):
            target = node["_target_"]
            if check_installed(target, key):
                ours = isinstance(target, str) and any(shipped_keys(group, target))
                problems += filter(None, [check_installed(target, key, choices.get(group) if ours else None)])
            elif group == "schedule" or ".schedule" in key:
                problems += check_curve(node, key)
            else:
                problems += check_node(node, key, group, choices.get(group), extra, ignore)
    return problems


GROUPS = ("optimizer", "schedule", "feedback", "layers", "model", "data", "logger", "health")
"""The groups that build objects."""

PASSED: dict[str, tuple[Collection[str], Collection[str]]] = {
    "optimizer": (("params",), ("fused", *Optimizer.offered)),
    "model": ((), Model.offered),
    "data": ((), Data.offered),
}
"""By group: the arguments that lrflow passes itself, and the keys that it does not pass to a target that has none."""


def _nodes(content: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a `_target_`, with its key."""
    if isinstance(content, Mapping):
        if "_target_" in content:
            yield key, content
        for name, value in content.items():
            yield from _nodes(value, f"{key}.{name}")
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _nodes(value, f"{key}[{index}]")


def check_curve(node: Mapping[str, Any], key: str) -> list[Problem]:
    """A schedule or a shape: is it one? Its arguments are checked when the whole schedule is built."""
    try:
        found = locate(node["_target_"], f"{key}._target_")
    except ConfigError as error:
        return error.problems
    if key.endswith(".shape") and inspect.isfunction(found):
        return []  # of one's own, from the share of the phase that is over to the multiplier
    if isinstance(found, type) and issubclass(found, Shape if key.endswith(".shape") else Curve):
        return []
    kind = "a shape, such as lrflow.schedules.Cosine" if key.endswith(".shape") else "a schedule"
    return [Problem(f"{key}._target_", f"expected {kind}", node["_target_"])]


def check_node(
    node: Mapping[str, Any],
    key: str,
    group: str,
    option: str | None,
    extra: Collection[str],
    ignore: Collection[str],
) -> list[Problem]:
    """Check one node with a `_target_`.

    For a target of lrflow's own options, their keys and the source text of its class tell which arguments it takes.
    Any other target is imported.
    """
    target = node["_target_"]
    if problem := check_name(target, f"{key}._target_"):
        return [problem]
    known = frozenset[str]()
    is_complete = False
    given = node.keys() - set(ignore) - set(CONTROLS)
    for keys in shipped_keys(group, target, option):
        if keys <= node.keys():
            is_complete = True
            if given <= keys:
                return []
        known |= keys
    names = [name for name in known if name not in CONTROLS]
    meant = {name: closest(name, names) for name in given - known}
    if is_complete and all(meant.values()):
        return [
            Problem(f"{key}.{name}", f"{target} takes no {name}", node[name], f"did you mean {key}.{near}?")
            for name, near in meant.items()
        ]
    return check_arguments(target, node, key, extra, ignore, parameters_in_source(target) if known else None)


def check_schedule(
    schedule: Schedule, key: str, horizon: Horizon | None, optimizer: Optimizer | None, decays: bool
) -> list[Problem]:
    """The run's schedule or a rule's: can it be built, and does it fit into the run?

    Args:
        schedule: as the config has it.
        key: where it stands.
        horizon: how long the run is; None where that is not known.
        optimizer: whose settings it may also move; None where that is not known.
        decays: whether layer rules may set weight decays of their own.
    """
    try:
        curve = schedule.curve(key)
    except ConfigError as error:
        return [answered(problem) for problem in error.problems]
    lacking = check_also(curve, key, optimizer, decays) if optimizer else []
    given = schedule.plain().get("also") or {}
    lacking = [replace(p, value=given.get(p.key.rpartition(".")[2], ...)) if p.value is ... else p for p in lacking]
    return lacking + (curve.check(horizon, key) if horizon else _check_shares(schedule, key))


def _check_shares(schedule: Schedule, key: str) -> list[Problem]:
    """Warmup and cooldown that no run has room for, however long it is."""
    problems = []
    for name, share in (("warmup", schedule.warmup), ("cooldown", schedule.cooldown)):
        if share.unit == "fraction" and share.value >= 1:
            hint = "the peak would never be reached" if name == "warmup" else None
            problems.append(Problem(f"{key}.{name}", "is no less than the whole run", str(share), hint))
    return problems


def check_uses(config: Config) -> list[Problem]:
    """Keys that are given and would have no effect, and settings that exclude each other."""
    problems = []
    if config.task.name != "plan":
        for key, value in (("horizon.steps", config.horizon.steps), ("against", config.against)):
            if value is not None:
                problems.append(Problem(key, "only task=plan reads it", value, "add task=plan, or leave it out"))
    if config.resume.source is not None and config.task.name == "evaluate":
        message = "task=evaluate goes on with no run"
        problems.append(Problem("resume.from", message, config.resume.source, f"task.from={config.resume.source}"))
    if config.resume.horizon is not None and config.task.name != "train":
        message = "only task=train reads it"
        problems.append(Problem("resume.horizon", message, config.resume.horizon, "leave it out"))
    elif config.resume.horizon is not None and config.resume.source is None:
        message = "only a resumed run reads it"
        problems.append(Problem("resume.horizon", message, config.resume.horizon, "add resume=last or resume=PATH"))
    return problems


def check_names(rules: Rules) -> list[Problem]:
    """Rules of the same name, whose groups could not be told apart."""
    first: dict[str, int] = {}
    problems = []
    for index, rule in enumerate(rules.rules):
        if first.setdefault(rule.name, index) != index:
            message = f"already the name of layers.rules[{first[rule.name]}]"
            problems.append(Problem(f"layers.rules[{index}].name", message, rule.name))
    return problems


def check_monitors(health: Health) -> list[Problem]:
    """Monitors that are switched off under a name that was surely meant to be another."""
    known = list(Health.model_fields)
    off = [name for name, node in (health.__pydantic_extra__ or {}).items() if node is None]
    meant = {name: closest(name, known) for name in off}
    return [
        Problem(f"health.{name}", "there is no such monitor", None, f"did you mean health.{near}?")
        for name, near in meant.items()
        if near
    ]


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

USES = ("task", "horizon", "against", "resume", "optimizer", "find")
"""What `check_uses` looks at, as beginnings of keys."""


def _check_test(config: Config) -> list[Problem]:
    """A test of the best weights takes weights that are chosen as the run goes."""
    if isinstance(config.task, Train) and config.task.test == "best" and config.trainer.checkpoint.monitor is None:
        message = "the best weights are those that trainer.checkpoint.monitor chooses, which is null"
        return [Problem("task.test", message, "best", "task.test=last")]
    return []


def check_config(
    content: Mapping[str, Any],
    config: Config | None,
    failed: Collection[str],
    choices: Mapping[str, str | None],
) -> list[Problem]:
    """Everything that the single keys could not tell.

    Args:
        content: the resolved config.
        config: the typed config, repaired where keys are wrong; None where it could not be.
        failed: keys that are known to be wrong; nothing is concluded from them.
        choices: the option that was taken of each group.
    """
    found = [*check_targets(content, choices), *check_limits(content), *check_mup(content)]
    problems = [p for p in found if p.key not in failed]
    if config is None:
        return problems
    wrong = {*failed, *(problem.key for problem in problems)}

    def sound(*beginnings: str) -> bool:
        return not any(key.startswith(beginnings) for key in wrong)

    horizon = None
    if sound(*LENGTH):
        try:
            horizon = declared_horizon(config)
        except ConfigError as error:
            problems += error.problems
    schedules = {"schedule": config.schedule}
    if isinstance(config.layers, Rules):
        problems += check_names(config.layers)
        problems += check_routes(config.layers.rules, config.optimizer.routes) if sound("optimizer.routes") else []
        rules = enumerate(config.layers.rules)
        schedules |= {f"layers.rules[{index}].schedule": rule.schedule for index, rule in rules if rule.schedule}
    decays = not isinstance(config.layers, Rules) or any(rule.weight_decay for rule in config.layers.rules)
    optimizer = config.optimizer if sound("optimizer") else None
    for key, schedule in schedules.items():
        problems += check_schedule(schedule, key, horizon, optimizer, decays) if sound(key) else []
    if isinstance(config.layers, Rules) and sound("layers.rules"):
        try:
            problems += check_freezing(config.layers.made(), horizon)
        except ConfigError as error:
            problems += error.problems
    if sound("scaling", "data.batch_size", "trainer."):
        problems += check_scaling(config)
    problems += check_combination(config) if sound("optimizer", "trainer.") else []
    problems += check_monitors(config.health)
    problems += _check_test(config) if sound("task", "trainer.checkpoint") else []
    problems += check_feedback(config) if sound("feedback", "trainer.limit_val") else []
    problems += check_find(config, horizon) if sound("find", "trainer.limit_val") else []
    return [*problems, *(check_uses(config) if sound(*USES) else [])]


def check_find(config: Config, horizon: Horizon | None) -> list[Problem]:
    """What of a range test cannot be.

    Args:
        config: of the run.
        horizon: how long the run is; None where that is not known yet.
    """
    find = config.find
    if not isinstance(find, RangeFind):
        return []
    problems = []
    if find.low >= find.high:
        problems.append(Problem("find.high", f"expected more than find.low, {find.low:g}", find.high))
    if find.confirm_runs < FEWEST_RUNS:
        message = f"expected at least {FEWEST_RUNS}: a best LR with one on either side"
        problems.append(Problem("find.confirm_runs", message, find.confirm_runs))
    if is_validation(find.monitor) and config.trainer.limit_val_batches == 0:
        message = f"find.monitor={find.monitor} is read from validations, of which there are none"
        problems.append(Problem("trainer.limit_val_batches", message, 0, "give more batches, or leave it out"))
    if find.confirm and config.task.name == "find" and config.resume.source is not None:
        message = "trial runs follow the whole schedule from its start, and this test starts at a checkpoint"
        problems.append(Problem("find.confirm", message, True, "leave out find.confirm or resume"))
    if config.task.name != "plan" and (horizon is not None or find.in_steps):
        try:
            find.sweep_length(horizon or Horizon(1))
        except ConfigError as error:
            problems += error.problems
    return problems
