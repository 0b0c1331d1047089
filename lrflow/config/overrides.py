"""The command line's overrides: read, checked against what there is to choose from, and made ready for Hydra."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, ValueType
from hydra.errors import HydraException

from lrflow.config.catalogue import Catalogue
from lrflow.config.secrets import secret_problem
from lrflow.config.spelling import closest
from lrflow.errors import Problem, did_you_mean


@dataclass
class Overrides:
    """Overrides after reading.

    Args:
        ready: those that can be composed, as Hydra takes them.
        problems: what is wrong with the others.
        lost: groups whose choice is among the others, so that nothing can be said about their keys.
    """

    ready: list[Override] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """The ready ones as text."""
        return [str(override.input_line) for override in self.ready]

    @property
    def keys(self) -> list[str]:
        """The config keys that they set."""
        return [override.key_or_group for override in self.ready]

    def jobs(self) -> list[list[str]]:
        """The overrides of every job of a sweep, in Hydra's order: the last key varies fastest.

        Of an interval, from which some sweepers draw, both ends are taken.
        """
        axes: dict[str, list[str]] = {}
        for override in self.ready:
            key = override.get_key_element()
            if override.is_discrete_sweep():
                axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            elif isinstance(ends := override.value(), IntervalSweep):
                axes[key] = [f"{key}={ends.start}", f"{key}={ends.end}"]
            else:
                axes[key] = [str(override.input_line)]
        return [list(job) for job in itertools.product(*axes.values())]


def expand(texts: Iterable[str]) -> list[str]:
    """Writes out the short forms.

    `resume=last` is `resume.from=last`, `fast=true` is the option `fast=on`, and `sweep.KEY` is a setting of lrflow's
    sweeper, which is taken then. It is also taken for launchers of other processes: Hydra's own drops what their jobs
    return, and ends with the first that failed (1.3.8).
    """
    texts = list(texts)
    short = {"resume": "resume.from"}
    switch = {"true": "on", "false": "off"}
    written = []
    for text in texts:
        key, equals, value = text.partition("=")
        sign, name = key[: len(key) - len(key.lstrip("+"))], key.lstrip("+")
        if equals and name in short and not value.startswith("{"):
            text = f"{sign}{short[name]}={value}"
        elif name == "fast" and value.lower() in switch:
            text = f"{sign}fast={switch[value.lower()]}"
        elif name.startswith("sweep."):
            text = f"{sign}hydra.sweeper.{name.removeprefix('sweep.')}={value}"
        written.append(text)
    ours = any(text.lstrip("+").startswith("sweep.") for text in texts)
    chosen = any(text.startswith(("hydra/sweeper=", "sweep=")) for text in texts)
    launchers = [text.partition("=")[2] for text in texts if text.startswith("hydra/launcher=")]
    if chosen or not (ours or set(launchers) - {"basic", "vectorized"}):
        return written
    return [*written, "hydra/sweeper=lrflow", *([] if ours else ["hydra.sweeper.sampler=grid"])]


def as_typed(texts: Iterable[str]) -> list[str]:
    """Overrides as a person types them, without the `++` that `read` puts before keys."""
    return [text.removeprefix("++") for text in texts]


def read(texts: Sequence[str], catalogue: Catalogue, sweep: bool = False) -> Overrides:
    """Reads overrides and gathers what is wrong with them.

    A value is handed to Hydra with `++`, so that the schemas say which keys there are: they tell all unknown ones at
    once, and know an argument of a `_target_` that no option mentions. Hydra would stop at the first, with advice that
    ends in a traceback.

    Args:
        texts: as typed, short forms written out.
        catalogue: the groups and options there are.
        sweep: several values a key are meant (`-m`).
    """
    result = Overrides()
    given: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        name = key.lstrip("+~")
        if problem := secret_problem(name, value):
            result.problems.append(problem)
            continue
        override, problem = _parse(text, catalogue)
        if override is not None:
            problem = _twice(override, given) or _searchpath(override) or _several(override, sweep)
            problem = problem or _choice(override, catalogue)
            given[name] = value
        if problem is not None or override is None:
            result.problems += [problem] if problem else []
            if catalogue.options(name):
                result.lost.append(name)
            continue
        result.ready.append(_for_hydra(override, catalogue))
    return result


def _parse(text: str, catalogue: Catalogue) -> tuple[Override | None, Problem | None]:
    key, equals, value = text.partition("=")
    if not equals and not text.startswith("~"):
        option = catalogue.find(text)
        hint = f"did you mean {option.group}={option.name}?" if option else "such as optimizer=sgd or optimizer.lr=0.01"
        return None, Problem(text, "expected key=value", ..., hint)
    try:
        return OverridesParser.create().parse_override(text), None
    except HydraException:
        pass
    if not key.strip("+~ "):
        return None, Problem(text, "expected key=value", ..., "such as optimizer=sgd or optimizer.lr=0.01")
    if any(sign.isspace() for sign in key):
        return None, Problem(key.strip(), "a key has no spaces in it", value)
    hint = f"""put special characters in quotes: '{key}="{value}"'"""
    return None, Problem(key.lstrip("+~"), "this value cannot be read", value, hint)


def _value_of(override: Override) -> str:
    """The value as it was typed."""
    return str(override.input_line).partition("=")[2]


def _twice(override: Override, given: dict[str, str]) -> Problem | None:
    key, value = override.key_or_group, _value_of(override)
    if key in given and given[key] != value:
        return Problem(key, f"is given twice; before, it was {given[key]}", value)
    return None


def _searchpath(override: Override) -> Problem | None:
    if override.key_or_group != "hydra.searchpath":
        return None
    return Problem("hydra.searchpath", "a folder with more options is given with --config-dir", override.value())


def _several(override: Override, sweep: bool) -> Problem | None:
    key, value = override.key_or_group, _value_of(override)
    if override.is_sweep_override() and override.is_delete():
        return Problem(key, "what is deleted cannot be swept", value, f"~{key} deletes it")
    if not override.is_sweep_override() or sweep:
        return None
    hint = (
        f"add -m to run one job for each; a list is written {key}=[{value}]" if override.is_choice_sweep() else "add -m"
    )
    return Problem(key, "several values make a sweep", value, hint)


def _choice(override: Override, catalogue: Catalogue) -> Problem | None:
    """What is wrong with the option that is chosen of a group."""
    options = catalogue.options(override.key_or_group)
    value: Any = override.value()
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        found = value.filter(list(options))
        return None if found else Problem(override.key_or_group, "matches no option of a group", _value_of(override))
    if not options or override.is_delete():
        return None
    if override.is_choice_sweep():
        value = list(override.sweep_string_iterator())
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, dict) or name is None or name == "null" or str(name) in options:
            continue
        close = closest(str(name), options)
        hint = f"did you mean {override.key_or_group}={close}?" if close else did_you_mean(str(name), options)
        return Problem(override.key_or_group, "there is no such option", name, hint)
    return None


def _for_hydra(override: Override, catalogue: Catalogue) -> Override:
    """The override as Hydra is to take it."""
    text = str(override.input_line)
    key = override.key_or_group
    is_group = bool(catalogue.options(key)) and not isinstance(override.value(), dict)
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        text = f"{key}={','.join(override.value().filter(list(catalogue.options(key))))}"  # type: ignore[union-attr]
    if override.is_delete() or override.is_hydra_override() or key == "hydra":
        return override
    plain = text.lstrip("+")
    return OverridesParser.create().parse_override(plain if is_group else f"++{plain}")
