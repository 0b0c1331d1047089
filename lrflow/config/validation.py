"""Validation of a composed config: returns a typed `Config` or raises every problem; handles `optimizer.lr=auto`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from lrflow.config.batch_schedule import divide_batches
from lrflow.config.checks.keys import check_config
from lrflow.config.checks.layers import check_multiples
from lrflow.config.checks.metrics import check_modes, directions_of, fill_modes
from lrflow.config.checks.pretrained import fill_architecture
from lrflow.config.checks.tuned_run import check_tuned
from lrflow.config.composition.interpolation import leaves, resolve, resolve_hydra_and_now
from lrflow.config.config import Config
from lrflow.config.diagnostics import problem_of, untagged
from lrflow.config.facts import fill_facts
from lrflow.config.origins import short_path, touches
from lrflow.config.schemas.find import RangeFind
from lrflow.config.schemas.objects import AUTO
from lrflow.config.schemas.task import OF_A_RUN
from lrflow.config.secrets import find_masked, find_published_secrets, find_secrets
from lrflow.config.step_batch import divide_batch, fill_accumulation
from lrflow.config.tuned_run import REFERENCE, fill_base, replace_lr_of_run
from lrflow.errors import ConfigError, Problem
from lrflow.redaction import redactor

META = "lrflow"
"""Key under which a saved config records its options, overrides and modes."""


def validate(
    cfg: DictConfig,
    choices: Mapping[str, str | None] | None = None,
    overrides: Iterable[str] = (),
    run_folder: Path | None = None,
    recorded_modes: Mapping[str, str] | None = None,
) -> Config:
    """Validate a whole config and return it typed.

    Args:
        cfg: composed config, interpolations unresolved.
        choices: chosen option of each group; None reads options, overrides and modes from `cfg`, a saved config.
        overrides: overrides of the command line.
        run_folder: folder that a sweep assigns to this job.
        recorded_modes: modes recorded in the run that `cfg` resumes, by metric; None for a new run.

    Raises:
        ConfigError: every problem of the config.
    """
    meta: Any = {}
    if choices is None:
        meta = record_of(cfg)
        choices, overrides = meta.get("choices") or {}, meta.get("overrides") or ()
        run_folder = Path(meta["run_folder"]) if meta.get("run_folder") else None
        recorded_modes = meta.get("metrics") or {}
    source = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra" and not (key == META and meta)])
    resolve_hydra_and_now(source)
    typed = [text.lstrip("+").partition("=")[0] for text in overrides] if recorded_modes is None else []
    of_files = [*fill_facts(source, typed), *fill_architecture(source)]
    fill_base(source)
    content, problems = resolve(source)
    problems = [*of_files, *problems]
    message = "there is no such group or key, and a key is text"
    problems += [Problem(str(key), message, cfg[key]) for key in cfg if not isinstance(key, str)]
    finds_lr = replace_auto_lr(content)
    tuned, of_run = replace_lr_of_run(content, typed)
    problems += of_run
    accumulated = fill_accumulation(content)
    directions = directions_of(content, cfg, recorded_modes)
    fill_modes(content, directions)
    if recorded_modes != {}:  # older runs recorded no modes, and their conflicts are accepted
        problems += check_modes(directions)
    written = OmegaConf.to_container(source)
    redactor.add_plain(value for _, value in leaves(written))
    problems += [*find_masked(written), *find_secrets(written), *find_published_secrets(content)]
    config, wrong = _typed(content, {problem.key for problem in problems})
    problems += wrong
    if config is not None and not wrong and (config.data.effective_batch_size or config.schedule.batch):
        divide = divide_batch if config.schedule.batch is None else divide_batches
        problems += divide(content, config, accumulated)
        config, _ = _typed(content, ())
    if config is not None:
        config.attach(source, choices, overrides, run_folder, finds_lr, directions)
    problems += check_config(content, config, {problem.key for problem in problems}, choices)
    if config is not None and finds_lr:
        problems += check_auto(config)
    if config is not None and tuned is not None:
        problems += check_tuned(config, tuned)
        config.take_lr_of(tuned)
    if problems or config is None:
        raise ConfigError(_in_order(problems))
    return config


def record_of(cfg: DictConfig) -> dict[str, Any]:
    """Return what a saved config records about its run; empty for a config that was just composed."""
    record = cfg.get(META)
    content: Any = OmegaConf.to_container(record) if isinstance(record, DictConfig) else {}
    return content or {}


def _typed(content: dict[str, Any], failed: Collection[str]) -> tuple[Config | None, list[Problem]]:
    """Return the typed config and the problems that the schemas find.

    Invalid keys get their defaults, so that the rest of the config can still be checked; the config is None if that
    fails.

    Args:
        content: resolved config.
        failed: keys with known problems, which are not reported again.
    """
    try:
        return Config.model_validate(content), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    problems = [problem_of(details, content, Config, Config.groups) for details in errors]
    sound = copy.deepcopy(content)
    for details in errors:
        _drop(sound, untagged(details["loc"]))
    if isinstance(optimizer := sound.get("optimizer"), dict):
        optimizer.setdefault("lr", 1.0)  # the only key without a default; no check depends on it
    try:
        config = Config.model_validate(sound)
    except ValidationError:
        config = None
    return config, [problem for problem in problems if not touches(problem.key, failed)]


def _drop(content: Any, location: list[int | str]) -> None:
    """Remove the value at a location from nested containers, if it exists."""
    *above, last = location
    for part in above:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(content, dict):
        content.pop(last, None)


def _in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Return the first problem of each key, in the order of the config, unknown keys first."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.key, problem)
    groups = list(Config.model_fields)

    def rank(problem: Problem) -> int:
        group = problem.key.partition(".")[0]
        return groups.index(group) if group in groups else -1

    return sorted(first.values(), key=rank)


def replace_auto_lr(content: dict[str, Any]) -> bool:
    """Replace `optimizer.lr=auto` by the reference LR, and return whether it was `auto`.

    Args:
        content: resolved config, changed in place.
    """
    optimizer = content.get("optimizer")
    if not isinstance(optimizer, dict) or optimizer.get("lr") != AUTO:
        return False
    optimizer["lr"] = REFERENCE
    return True


def check_auto(config: Config) -> list[Problem]:
    """Return a problem for each setting that excludes `optimizer.lr=auto`."""
    problems = []
    if config.task.name not in ("train", "find", *OF_A_RUN):
        message = f"task={config.task.name} needs an LR as a number"
        problems.append(Problem("optimizer.lr", message, AUTO, "find the LR with task=find"))
    elif config.resume.source is not None:
        problems.append(Problem("optimizer.lr", "a resumed run already has an LR", AUTO, "leave it out"))
    elif not isinstance(config.find, RangeFind):
        problems.append(Problem("optimizer.lr", "needs a range test", AUTO, "find=range"))
    elif config.optimizer.routes:
        message = "cannot be found for several optimizers at once"
        problems.append(Problem("optimizer.lr", message, AUTO, "use task=find, which scales all of them together"))
    return [*problems, *check_multiples(config.layers.rules, "optimizer.lr=auto")]


_Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _mapping(holds: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(_is_text(name) and holds(value[name]) for name in value)


_RECORDED: dict[str, tuple[_Check, str]] = {
    "choices": (_mapping(lambda option: option is None or _is_text(option)), "a mapping of groups to their options"),
    "overrides": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of texts"),
    "metrics": (_mapping(lambda mode: mode in ("min", "max")), "a mapping of metrics to min or max"),
    "run_folder": (_is_text, "the path of a folder"),
}
"""By entry: a check of its value, and the words for valid values; each entry may be absent or null."""


def record_problems(content: Mapping[str, Any], path: Path) -> list[Problem]:
    """Return a problem for each entry of the record that lrflow cannot have written.

    Args:
        content: of a saved config, as plain data.
        path: its file.
    """
    record = content.get(META) or {}
    checks = _RECORDED if isinstance(record, dict) else {}
    wrong = {
        f"{META}.{name}": (record[name], words)
        for name, (holds, words) in checks.items()
        if record.get(name) is not None and not holds(record[name])
    }
    if not isinstance(record, dict):
        wrong = {META: (record, "a mapping")}
    hint = f"lrflow wrote it when the run started; was {path.name} edited?"
    return [Problem(key, f"expected {words}", value, hint, short_path(path)) for key, (value, words) in wrong.items()]
