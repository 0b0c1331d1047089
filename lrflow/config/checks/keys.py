"""Checks across config keys: arguments of targets, schedules, the range test and keys without effect."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from lrflow.config.checkpoint_names import check_names as check_names_of_best
from lrflow.config.checks.batch_schedule import check_batches
from lrflow.config.checks.callbacks import check_of_lightning, check_switched_off
from lrflow.config.checks.compatibility import check_combination, check_mup, check_routes
from lrflow.config.checks.health import check_health
from lrflow.config.checks.layers import check_freezing, check_names, check_settings
from lrflow.config.checks.loggers import check_loggers
from lrflow.config.checks.metrics import check_feedback, check_limits, check_logged, is_plain, no_validation
from lrflow.config.checks.nodes import check_targets
from lrflow.config.checks.scalars import check_scalars
from lrflow.config.checks.trainer import check_lightning
from lrflow.config.config import Config
from lrflow.config.debugging import check_debugging, makes_short_runs
from lrflow.config.diagnostics import answered, closest
from lrflow.config.facts import check_facts
from lrflow.config.forecast_run import EXAMPLE
from lrflow.config.length import declared_horizon
from lrflow.config.objective import check_objective
from lrflow.config.packages import check_parquet, is_installed, missing_package
from lrflow.config.schemas.average import check_average
from lrflow.config.schemas.find import BatchSizeFind, CriticalBatchFind, RangeFind, WarmupFind
from lrflow.config.schemas.layers import Rules
from lrflow.config.schemas.objects import Data, Facts, Optimizer, Schedule
from lrflow.config.schemas.task import EXPORTS, OF_A_RUN, TABLES, Export, Forecast, Predict, Train
from lrflow.config.step_batch import check_batch_search, check_noise_search, check_scaling
from lrflow.config.targets import defaults
from lrflow.errors import ConfigError, Problem
from lrflow.launch import is_one_of_several, is_within_a_program
from lrflow.metric import PLACES, as_list, is_validation
from lrflow.schedules import Curve, Horizon
from lrflow.schedules.curve import highest_settings, numeric_settings

LENGTH = (
    "trainer.max_",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accumulate",
    "trainer.limit_train",
    "data.",
    "horizon",
)
"""Prefixes of the keys that determine the length of a run."""

USES = ("task", "horizon", "against", "resume", "optimizer", "find", "model.fresh", "model.init_from")
"""Prefixes of the keys that `check_uses` reads."""

FEWEST_RUNS = 3
"""Minimum of `find.confirm_runs`."""


def check_config(
    content: Mapping[str, Any],
    config: Config | None,
    failed: Collection[str],
    choices: Mapping[str, str | None],
) -> list[Problem]:
    """Return every problem that a single key cannot show.

    Args:
        content: resolved config.
        config: typed config, with defaults for invalid keys; None if it could not be built.
        failed: keys with known problems; checks that depend on them are skipped.
        choices: chosen option of each group.
    """
    found = [*check_limits(content), *check_targets(content, choices), *check_loggers(content, choices)]
    found += check_mup(content)
    problems = [answered(p, content) for p in found if p.key not in failed]
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
    problems += check_names(config.layers.rules)
    if isinstance(config.layers, Rules):
        problems += check_routes(config.layers.rules, config.optimizer.routes) if sound("optimizer.routes") else []
    rules = enumerate(config.layers.rules)
    schedules |= {f"layers.rules[{index}].schedule": rule.schedule for index, rule in rules if rule.schedule}
    decays = not isinstance(config.layers, Rules) or any(rule.weight_decay for rule in config.layers.rules)
    optimizer = config.optimizer if sound("optimizer") else None
    for key, schedule in schedules.items():
        wrong_here = check_schedule(schedule, key, horizon, optimizer, decays) if sound(key) else []
        problems += [answered(problem, content) for problem in wrong_here]
    if sound("layers.rules"):
        try:
            problems += check_freezing(config.layers.compiled(), horizon, alone=isinstance(config.layers, Rules))
        except ConfigError as error:
            problems += error.problems
        problems += check_settings(config.layers.rules, config.optimizer) if sound("optimizer") else []
    if sound("scaling", "data.batch_size", "trainer."):
        problems += check_scaling(config)
    if sound("schedule", "scaling", "optimizer", "trainer.", "data.", "layers", "horizon"):
        problems += check_batches(config)
    problems += check_combination(config) if sound("optimizer", "trainer.") else []
    problems += check_debugging(config) if sound("trainer.", *USES) else []
    problems += check_of_module(config) if sound("optimizer", "schedule", "layers") else []
    problems += (
        check_average(config.average, config.trainer.strategy_name, horizon) if sound("average", "trainer.") else []
    )
    problems += process_problems(config) if sound("trainer.") and is_within_a_program() else []
    problems += check_facts(config) if sound("model", "data") else []
    problems += check_objective(config) if sound("model", "data") else []
    problems += check_scalars(config, horizon) if sound("scalars", "model", "average", "trainer.compile") else []
    problems += check_health(config)
    problems += [*check_switched_off(content), *check_of_lightning(content), *check_lightning(content)]
    problems += check_fact_names(config.data)
    problems += check_loader(config.data) if sound("data") else []
    problems += _check_test(config) if sound("task", "trainer.checkpoint") else []
    problems += check_feedback(config) if sound("feedback", "trainer.", "data.") else []
    problems += check_logged(config) if is_plain(config) and sound("model", "health", "callbacks", *PLACES) else []
    if sound("trainer.checkpoint", "trainer.val_every"):
        saving = config.trainer.checkpoint
        problems += check_names_of_best(saving.monitor, saving.best, saving.name, config.trainer.val_every)
    problems += check_find(config, horizon) if sound("find", "trainer.limit_val") else []
    return [*problems, *(check_uses(config) if sound(*USES) else [])]


def process_problems(config: Config) -> list[Problem]:
    """Return the problem of a run of several processes in a program of the user's that no launcher started for each.

    Lightning would start the further processes as this whole program.
    """
    if config.trainer.processes == 1 or is_one_of_several():
        return []
    key = "num_nodes" if config.trainer.num_nodes > 1 else "devices"
    message = "only the command line starts the further processes of a run: they would run this whole program"
    hint = f"trainer.{key}=1, or python -m lrflow ..."
    return [Problem(f"trainer.{key}", message, getattr(config.trainer, key), hint)]


def check_of_module(config: Config) -> Iterator[Problem]:
    """Yield a problem for each setting that does not work with the optimizer of the module's own."""
    if not config.optimizer.of_module:
        if config.schedule.of_module:
            message = "is the scheduler of the module's own optimizer, and the run has another optimizer"
            yield Problem("schedule", message, "module", "add optimizer=module, or choose a schedule")
        return
    layers = config.layers.plain()
    if layers != {"rules": [{"name": "all", "match": "*"}]}:
        message = "the groups are those of the module's own optimizer"
        yield Problem("layers", message, ..., "leave it out, or choose another optimizer")
    if config.optimizer.routes:
        message = "the module's own optimizer has all parameters"
        yield Problem("optimizer.routes", message, list(config.optimizer.routes), "leave it out")
    if config.optimizer.every > 1:
        message = "the module's own optimizer steps at every step of the run"
        yield Problem("optimizer.every", message, config.optimizer.every, "leave it out")
    if config.model.target.startswith(("lrflow.models.", "torch.nn.")):
        message = "needs a LightningModule with a configure_optimizers, and this model is a plain module"
        yield Problem("optimizer", message, "module", "choose an optimizer, such as optimizer=adamw")
    if makes_short_runs(config):
        message = "the LRs are the module's own, so no range test and no shortened run can set them"
        yield Problem("optimizer", message, "module", "choose an optimizer, or sweep over the module's own argument")


def check_schedule(
    schedule: Schedule, key: str, horizon: Horizon | None, optimizer: Optimizer | None, decays: bool
) -> list[Problem]:
    """Check that the schedule of the run or of a rule can be built and fits into the run.

    Args:
        schedule: section of the config.
        key: config key of the schedule.
        horizon: length of the run; None if unknown.
        optimizer: optimizer whose settings `schedule.also` may move; None if unknown.
        decays: whether layer rules may set a weight decay.
    """
    try:
        curve = schedule.curve(key)
    except ConfigError as error:
        return error.problems
    if schedule.of_module:
        return []
    lacking = check_also(curve, key, optimizer, decays) if optimizer else []
    given = schedule.plain().get("also") or {}
    lacking = [replace(p, value=given.get(p.key.rpartition(".")[2], ...)) if p.value is ... else p for p in lacking]
    return lacking + (curve.check(horizon, key) if horizon else _check_shares(schedule, key))


def _check_shares(schedule: Schedule, key: str) -> list[Problem]:
    """Return a problem for a warmup, cooldown or delay of 100% or more."""
    problems = []
    for name, share in (("warmup", schedule.warmup), ("cooldown", schedule.cooldown), ("delay", schedule.delay)):
        if share.unit == "fraction" and share.value >= 1:
            hint = "the peak would never be reached" if name == "warmup" else None
            problems.append(Problem(f"{key}.{name}", "expected less than the whole run", str(share), hint))
    return problems


def check_also(curve: Curve, key: str, optimizer: Optimizer, decays: bool) -> list[Problem]:
    """Return a problem for each setting in `schedule.also` that the optimizer does not have.

    The optimizer is imported only if the config does not give the setting.

    Args:
        curve: the schedule.
        key: config key of the schedule.
        optimizer: optimizer of the run.
        decays: whether layer rules set a weight decay.
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


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """Return the settings of an optimizer, with the defaults of its signature, and those of its routes under `routes`.

    The optimizer is imported.
    """
    routes = {name: settings_of(route) for name, route in optimizer.routes.items()}
    return {**defaults(optimizer.target), **optimizer.node(), "routes": routes}


def check_uses(config: Config) -> list[Problem]:
    """Return a problem for each key that would have no effect or excludes another."""
    problems = []
    if config.task.name != "plan":
        for key, value in (("horizon.steps", config.horizon.steps), ("against", config.against)):
            if value is not None:
                problems.append(Problem(key, "only task=plan uses it", value, "add task=plan, or leave it out"))
    if config.model.fresh is not None and config.model.init_from is None:
        message = "has no effect without model.init_from, the weights of which it leaves out some"
        problems.append(Problem("model.fresh", message, config.model.fresh, "add model.init_from=last or a path"))
    if isinstance(config.task, Forecast) and len(as_list(config.task.source)) < 2:
        message = "expected two run folders or more: a trunk, and a branch with other LRs"
        problems.append(Problem("task.from", message, config.task.source, EXAMPLE))
    if config.resume.source is not None and config.task.name in (*OF_A_RUN, "forecast"):
        message = f"task={config.task.name} does not resume a run"
        problems.append(Problem("resume.from", message, config.resume.source, f"task.from={config.resume.source}"))
    if isinstance(config.task, Export | Predict):
        needed = (EXPORTS if isinstance(config.task, Export) else TABLES)[config.task.to]
        missing = [name for name in needed if not is_installed(name)]
        problems += [missing_package(name, "task.to", config.task.to) for name in missing[:1]]
    if isinstance(config.task, Predict):
        problems += check_parquet(config.task.inputs, "task.inputs")
    if config.resume.horizon is not None and config.task.name != "train":
        message = "only task=train uses it"
        problems.append(Problem("resume.horizon", message, config.resume.horizon, "leave it out"))
    elif config.resume.horizon is not None and config.resume.source is None:
        message = "only a resumed run uses it"
        problems.append(Problem("resume.horizon", message, config.resume.horizon, "add resume=last or resume=PATH"))
    return problems


def check_fact_names(data: Data) -> list[Problem]:
    """Return a problem for each misspelt fact; others are for interpolations of the user's own."""
    given = (data.facts.__pydantic_extra__ if data.facts else None) or {}
    meant = {name: closest(name, Facts.model_fields) for name in given}
    return [
        Problem(f"data.facts.{name}", "lrflow knows no such fact", given[name], f"did you mean data.facts.{near}?")
        for name, near in meant.items()
        if near
    ]


def check_loader(data: Data) -> list[Problem]:
    """Return a problem for each setting of the loaders that needs workers or contradicts `data.num_workers`."""
    given, problems = data.loader, []
    if given.num_workers is not None and data.num_workers not in (0, given.num_workers):
        message = f"data.num_workers, the number with which the module makes its loaders, is {data.num_workers}"
        problems.append(Problem("data.loader.num_workers", message, given.num_workers, "leave out one of the two"))
    known = "num_workers" in data.model_fields_set or data.target.startswith("lrflow.data.")
    own = data.num_workers if known else None
    if (own if given.num_workers is None else given.num_workers) == 0:
        problems += needs_workers(data, "there are none")
    return problems


def needs_workers(data: Data, lacking: str) -> list[Problem]:
    """Return a problem for each setting of the loaders that needs worker processes, where there are none."""
    settings = {"prefetch_factor": data.loader.prefetch_factor, "persistent_workers": data.loader.persistent_workers}
    hint = "add data.loader.num_workers=2, or leave it out"
    return [
        Problem(f"data.loader.{name}", f"needs worker processes, and {lacking}", value, hint)
        for name, value in settings.items()
        if value
    ]


def _check_test(config: Config) -> list[Problem]:
    """Return a problem if the best weights are to be tested but none are kept."""
    if isinstance(config.task, Train) and config.task.test == "best" and config.trainer.checkpoint.monitor is None:
        message = "trainer.checkpoint.monitor, which chooses the best weights, is null"
        return [Problem("task.test", message, "best", "task.test=last")]
    return []


def check_find(config: Config, horizon: Horizon | None) -> list[Problem]:
    """Check the settings of a range test or of a search for a batch size.

    Args:
        config: config of the run.
        horizon: length of the run; None if not known yet.
    """
    find = config.find
    if isinstance(find, BatchSizeFind):
        return [*check_batch_search(config, find)]
    if isinstance(find, CriticalBatchFind):
        return [*check_noise_search(config)]
    if isinstance(find, WarmupFind):
        return [*_check_warmup_search(config, find, horizon)]
    if not isinstance(find, RangeFind):
        return []
    problems = []
    if find.low >= find.high:
        problems.append(Problem("find.high", f"expected more than find.low = {find.low:g}", find.high))
    if find.confirm_runs < FEWEST_RUNS:
        message = f"expected at least {FEWEST_RUNS}: the best LR and one on either side"
        problems.append(Problem("find.confirm_runs", message, find.confirm_runs))
    if is_validation(find.monitor) and (off := no_validation(config)):
        message = f"find.monitor={find.monitor} needs validation, which this switches off"
        problems.append(Problem(off[0], message, off[1], "give another value, or leave it out"))
    if find.confirm and config.task.name == "find" and config.resume.source is not None:
        message = "trial runs follow the whole schedule from its start, but this test starts at a checkpoint"
        problems.append(Problem("find.confirm", message, True, "leave out find.confirm or resume"))
    if config.task.name != "plan" and (horizon is not None or find.in_steps):
        try:
            find.sweep_length(horizon or Horizon(1))
        except ConfigError as error:
            problems += error.problems
    return problems


def _check_warmup_search(config: Config, find: WarmupFind, horizon: Horizon | None) -> Iterator[Problem]:
    """Yield a problem for each setting that does not work with a search for the shortest warmup."""
    if config.task.name == "find" and config.resume.source is not None:
        message = "find=warmup trains new models: a warmup is for the start of a run"
        yield Problem("resume.from", message, config.resume.source, "leave it out")
    for index, given in enumerate(find.warmups):
        try:
            is_long = 2 * given.steps(horizon or Horizon(100)) > (horizon or Horizon(100)).steps
        except ValueError:  # in epochs, and their length is not known yet
            continue
        if is_long and (horizon or given.unit == "fraction"):
            message = "expected at most half of the run; the Tuning Playbook advises at most 10%"
            yield Problem(f"find.warmups[{index}]", message, str(given), "10%")
