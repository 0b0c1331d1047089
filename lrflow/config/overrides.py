"""The command line's overrides: read once, checked against what there is to choose from, and made ready for Hydra."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, OverrideType, ValueType
from hydra.core.override_parser.types import Override as Parsed
from hydra.errors import HydraException

from lrflow.config.diagnostics import closest
from lrflow.config.options import Catalogue
from lrflow.config.secrets import secret_problem
from lrflow.errors import Problem, did_you_mean

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader


@dataclass(frozen=True)
class Override:
    """One override, `optimizer.lr=0.01`. Its text is split once, and its value parsed once, when somebody asks.

    Args:
        key: `optimizer.lr`, or a group: `optimizer`.
        value: the text behind the `=`; None: there is no `=`.
        sign: what stands before the key: nothing, `+`, `++` or `~`.
    """

    key: str
    value: str | None
    sign: str = ""

    @classmethod
    def read(cls, text: str) -> Override:
        """Splits a text at its first `=`; whether the value can be parsed shows when `parsed` is asked for."""
        head, equals, value = text.partition("=")
        key = head.lstrip("+~")
        return cls(key, value if equals else None, head.removesuffix(key))

    @classmethod
    def path(cls, key: str, path: object) -> Override:
        """The override that gives a path, in quotes as Hydra's grammar needs them."""
        return cls(key, quoted(path))

    @property
    def text(self) -> str:
        """As Hydra takes it."""
        return f"{self.sign}{self.key}" + ("" if self.value is None else f"={self.value}")

    @property
    def typed(self) -> str:
        """As a person types it, without the `++` that Hydra needs before keys."""
        return self.text.removeprefix("++")

    @property
    def given(self) -> str:
        """The text of the value, empty where there is none."""
        return self.value or ""

    @property
    def plain(self) -> str:
        """The text that the value stands for, without the quotes of Hydra's grammar around it."""
        value = self.parsed.value() if self.is_readable else None
        return value if isinstance(value, str) else self.given

    @property
    def deletes(self) -> bool:
        """Whether it takes a key away."""
        return self.sign == "~"

    @property
    def of_hydra(self) -> bool:
        """Whether it speaks of Hydra's own config or of one of its plugins."""
        return self.key == "hydra" or self.key.startswith(("hydra.", "hydra/"))

    @cached_property
    def parsed(self) -> Parsed:
        """The override with its value, in Hydra's types.

        Raises:
            HydraException: it is not in Hydra's grammar.
        """
        return _parser().parse_override(self.text)

    @property
    def is_readable(self) -> bool:
        """Whether it is in Hydra's grammar."""
        try:
            return self.parsed is not None
        except HydraException:
            return False

    @property
    def is_swept(self) -> bool:
        """Whether Hydra reads several values in this one; False for what it cannot read."""
        return self.is_readable and self.parsed.is_sweep_override()

    def within(self, loader: ConfigLoader | None) -> Override:
        """The same, parsed, with what knows the options that a glob of it stands for.

        Raises:
            HydraException: it is not in Hydra's grammar.
        """
        same = dataclasses.replace(self)
        same.__dict__["parsed"] = dataclasses.replace(self.parsed, config_loader=loader)
        return same

    def with_sign(self, sign: str) -> Override:
        """The same with another sign, `++` or nothing; the value is not parsed again."""
        if sign == self.sign:
            return self
        changed = dataclasses.replace(self, sign=sign)
        kind = OverrideType.FORCE_ADD if sign else OverrideType.CHANGE
        changed.__dict__["parsed"] = dataclasses.replace(self.parsed, type=kind, input_line=changed.text)
        return changed


def quoted(value: object) -> str:
    """A number, or a text or list of texts that may hold spaces, commas and the like, as Hydra's grammar takes it."""
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(quoted, value))}]"
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@cache
def _parser() -> OverridesParser:
    """Making one takes longer than parsing with it."""
    return OverridesParser.create()


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
        return [override.text for override in self.ready]

    def jobs(self) -> list[list[Override]]:
        """The overrides of every job of a sweep, in Hydra's order: the last key varies fastest.

        Of an interval, from which some sweepers draw, both ends are taken.
        """
        axes: dict[str, list[Override]] = {}
        for override in self.ready:
            parsed = override.parsed
            key = parsed.get_key_element()
            if parsed.is_discrete_sweep():
                axes[key] = [Override.read(f"{key}={value}") for value in parsed.sweep_string_iterator()]
            elif isinstance(ends := parsed.value(), IntervalSweep):
                axes[key] = [Override.read(f"{key}={end}") for end in (ends.start, ends.end)]
            elif override.deletes:
                axes[key] = [override]
            else:  # as Hydra's basic sweeper writes it: `false` becomes `False`
                axes[key] = [Override.read(f"{key}={parsed.get_value_element_as_str()}")]
        return [list(job) for job in itertools.product(*axes.values())]


def expand(texts: Iterable[str]) -> list[Override]:
    """Reads overrides and writes out the short forms; of a key that is given more than once, the last one wins.

    `resume=last` is `resume.from=last`, `fast=true` is the option `fast=on`, and `sweep.KEY` is a setting of lrflow's
    sweeper, which is taken then. It is also taken for launchers of other processes: Hydra's own drops what their jobs
    return, and ends with the first that failed (1.3.8).
    """
    given = [Override.read(text) for text in texts]
    written = [_written_out(override) for override in given]
    ours = any(override.key.startswith("sweep.") for override in given)
    chosen = any(override.key in ("hydra/sweeper", "sweep") for override in given)
    launchers = {override.given for override in given if override.key == "hydra/launcher"}
    if not chosen and (ours or launchers - {"basic", "vectorized"}):
        written.append(Override("hydra/sweeper", "lrflow"))
        written += [] if ours else [Override("hydra.sweeper.sampler", "grid")]
    return last_of_each(written)


def last_of_each(overrides: Iterable[Override]) -> list[Override]:
    """Of the overrides of one key only the last, at its place."""
    given = list(overrides)
    last = {override.key: at for at, override in enumerate(given)}
    return [override for at, override in enumerate(given) if last[override.key] == at]


def _written_out(override: Override) -> Override:
    """A short form in full."""
    key, value = override.key, override.value
    if key == "resume" and value is not None and not value.startswith("{"):
        key = "resume.from"
    elif key == "fast" and override.given.lower() in ("true", "false"):
        value = "on" if override.given.lower() == "true" else "off"
    elif key.startswith("sweep."):
        key = f"hydra.sweeper.{key.removeprefix('sweep.')}"
    return dataclasses.replace(override, key=key, value=value)


def read_overrides(overrides: Iterable[Override], catalogue: Catalogue, sweep: bool = False) -> Overrides:
    """Gathers what is wrong with overrides, and makes the others ready for Hydra.

    A value is handed to Hydra with `++`, so that the schemas say which keys there are: they tell all unknown ones at
    once, and know an argument of a `_target_` that no option mentions. Hydra would stop at the first, with advice that
    ends in a traceback.

    Args:
        overrides: as typed, short forms written out.
        catalogue: the groups and options there are.
        sweep: several values a key are meant (`-m`).
    """
    result = Overrides()
    for override in overrides:
        if problem := secret_problem(override.key, override.given):
            result.problems.append(problem)
            continue
        problem = _unreadable(override, catalogue) or _searchpath(override) or _several(override, sweep)
        if problem := problem or _choice(override, catalogue):
            result.problems.append(problem)
            if catalogue.options(override.key):
                result.lost.append(override.key)
            continue
        result.ready.append(_for_hydra(override, catalogue))
    return result


def _unreadable(override: Override, catalogue: Catalogue) -> Problem | None:
    if override.value is None and not override.deletes:
        option = catalogue.find(override.text)
        hint = f"did you mean {option.group}={option.name}?" if option else "such as optimizer=sgd or optimizer.lr=0.01"
        return Problem(override.text, "expected key=value", ..., hint)
    key, value = override.key, override.given
    if key.strip() and override.is_readable:
        return None
    if not key.strip():
        return Problem(override.text, "expected key=value", ..., "such as optimizer=sgd or optimizer.lr=0.01")
    if any(sign.isspace() for sign in key):
        return Problem(key.strip(), "a key has no spaces in it", value)
    if (shorter := value.rstrip(", ")) != value and Override(key, shorter).is_readable:
        return Problem(key, "a comma stands at the end with nothing behind it", value, f"{key}={shorter}")
    hint = f"""put special characters in quotes: '{override.sign}{key}="{value}"'"""
    return Problem(key, "this value cannot be read", value, hint)


def _searchpath(override: Override) -> Problem | None:
    if override.key != "hydra.searchpath":
        return None
    return Problem("hydra.searchpath", "a folder with more options is given with --config-dir", override.parsed.value())


def _several(override: Override, sweep: bool) -> Problem | None:
    key, value, parsed = override.key, override.given, override.parsed
    if parsed.is_sweep_override() and override.deletes:
        return Problem(key, "what is deleted cannot be swept", value, f"~{key} deletes it")
    if not parsed.is_sweep_override() or sweep:
        return None
    hint = (
        f"add -m to run one job for each; a list is written {key}=[{value}]" if parsed.is_choice_sweep() else "add -m"
    )
    return Problem(key, "several values make a sweep", value, hint)


def _choice(override: Override, catalogue: Catalogue) -> Problem | None:
    """What is wrong with the option that is chosen of a group."""
    parsed = override.parsed
    options = catalogue.options(parsed.key_or_group)
    value: Any = parsed.value()
    if parsed.value_type is ValueType.GLOB_CHOICE_SWEEP:
        found = value.filter(list(options))
        return None if found else Problem(override.key, "matches no option of a group", override.given)
    if not options or override.deletes:
        return None
    if parsed.is_choice_sweep():
        value = list(parsed.sweep_string_iterator())
    elif isinstance(value, list):
        hint = f"such as {override.key}={value[0]}" if len(value) == 1 else None
        return Problem(override.key, "expected the name of one option", override.given, hint)
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, dict) or name is None or name == "null" or str(name) in options:
            continue
        close = closest(str(name), options)
        hint = f"did you mean {override.key}={close}?" if close else did_you_mean(str(name), options)
        if not close and not catalogue.has_own:
            hint = f"{hint or 'lrflow has none like it'}; options of your own need --config-dir FOLDER"
        return Problem(override.key, "there is no such option", name, hint)
    return None


def _for_hydra(override: Override, catalogue: Catalogue) -> Override:
    """The override as Hydra is to take it."""
    parsed = override.parsed
    if override.deletes or override.of_hydra:
        return override
    if parsed.value_type is ValueType.GLOB_CHOICE_SWEEP:
        options: Any = parsed.value()
        override = Override(override.key, ",".join(options.filter(list(catalogue.options(parsed.key_or_group)))))
    chooses = bool(catalogue.options(parsed.key_or_group)) and not isinstance(parsed.value(), dict)
    return override.with_sign("" if chooses else "++")


def values_of(texts: Iterable[str]) -> dict[str, str]:
    """What overrides give to each key, as it was written."""
    return {override.key: override.given for override in map(Override.read, texts)}
