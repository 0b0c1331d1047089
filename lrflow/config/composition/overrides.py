"""Overrides of the command line: parsed once, checked against groups and options, and converted for Hydra."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, OverrideType, ValueType
from hydra.core.override_parser.types import Override as Parsed
from hydra.errors import HydraException

from lrflow.config.composition.grammar import axis_problem, call_problem, check_count, parser, quoted
from lrflow.config.composition.interpolation import DEEPEST, is_deep, is_writable
from lrflow.config.composition.options import COMBINED, Catalogue
from lrflow.config.diagnostics import closest
from lrflow.config.secrets import secret_problem
from lrflow.errors import Problem, did_you_mean

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader


_LONGEST = 100_000  # characters of an override, which Hydra parses in pure Python


class UnreadableError(HydraException):
    """Raised for a value that follows Hydra's grammar and cannot be read all the same; its message has the reason."""


@dataclass(frozen=True)
class Override:
    """One override, `optimizer.lr=0.01`; its value is parsed once, when it is first used.

    Args:
        key: `optimizer.lr`, or a group: `optimizer`.
        value: text after the `=`; None if there is no `=`.
        sign: prefix of the key: empty, `+`, `++` or `~`.
        short: the key as it was typed, if that is a short form, such as `resume`.
        saved: it was read from the folder of a sweep, and not typed.
    """

    key: str
    value: str | None
    sign: str = ""
    short: str | None = field(default=None, compare=False)
    saved: bool = False

    @classmethod
    def read(cls, text: str) -> Override:
        """Split a text at its first `=`, without parsing the value."""
        head, equals, value = text.partition("=")
        key = head.lstrip("+~")
        return cls(key, value if equals else None, head.removesuffix(key))

    @classmethod
    def path(cls, key: str, path: object) -> Override:
        """Return the override that sets a key to a path, quoted for Hydra's grammar."""
        return cls(key, quoted(path))

    @property
    def text(self) -> str:
        """The override as Hydra reads it."""
        return f"{self.sign}{self.key}" + ("" if self.value is None else f"={self.value}")

    @property
    def typed(self) -> str:
        """The override as a user types it, without the `++` that lrflow adds for Hydra."""
        return self.text.removeprefix("++")

    @property
    def given(self) -> str:
        """The text of the value; empty if there is none."""
        return self.value or ""

    @property
    def plain(self) -> str:
        """The text of the value, without the quotes of Hydra's grammar."""
        value = self.parsed.value() if self.is_readable else None
        return value if isinstance(value, str) else self.given

    @property
    def deletes(self) -> bool:
        """Whether it deletes a key."""
        return self.sign == "~"

    @property
    def of_hydra(self) -> bool:
        """Whether its key is in Hydra's own config or chooses one of Hydra's plugins."""
        return self.key == "hydra" or self.key.startswith(("hydra.", "hydra/"))

    @cached_property
    def parsed(self) -> Parsed:
        """The parsed override, in Hydra's types.

        Raises:
            HydraException: the text does not follow Hydra's grammar.
            UnreadableError: it does, and its value is nested too deeply or has too many digits.
        """
        try:
            found = parser().parse_override(self.text)
            if is_deep(getattr(found._value, "list", found._value)):  # the values of a sweep are in a list
                raise RecursionError
            return found
        except RecursionError:
            raise UnreadableError(f"is nested more than {DEEPEST} levels deep") from None
        except ValueError as error:  # Python converts no number of more than 4300 digits
            raise UnreadableError(str(error).partition(";")[0].lower()) from None

    @property
    def is_readable(self) -> bool:
        """Whether the text follows Hydra's grammar."""
        try:
            return self.parsed is not None
        except HydraException:
            return False

    @property
    def is_swept(self) -> bool:
        """Whether it has several values, as in a sweep; False if it cannot be parsed."""
        return self.is_readable and self.parsed.is_sweep_override()

    def within(self, loader: ConfigLoader | None) -> Override:
        """Return a parsed copy with the config loader that resolves globs to options.

        Raises:
            HydraException: the text does not follow Hydra's grammar.
        """
        same = dataclasses.replace(self)
        same.__dict__["parsed"] = dataclasses.replace(self.parsed, config_loader=loader)
        return same

    def with_sign(self, sign: str) -> Override:
        """Return a copy with another sign, `++` or none, without parsing the value again."""
        if sign == self.sign:
            return self
        changed = dataclasses.replace(self, sign=sign)
        kind = OverrideType.FORCE_ADD if sign else OverrideType.CHANGE
        changed.__dict__["parsed"] = dataclasses.replace(self.parsed, type=kind, input_line=changed.text)
        return changed


@dataclass
class Overrides:
    """Overrides after they were checked.

    Args:
        ready: valid overrides as Hydra reads them.
        problems: problems of the others.
        lost: groups with an invalid choice; their keys cannot be checked.
    """

    ready: list[Override] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """The valid overrides as text."""
        return [override.text for override in self.ready]

    def jobs(self) -> list[list[Override]]:
        """Return the overrides of every job of a sweep in Hydra's order, in which the last key varies fastest.

        An interval, from which some sweepers draw, contributes its two ends.

        Raises:
            ConfigError: there are more than `MOST_JOBS` jobs.
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
        check_count({key: len(values) for key, values in axes.items()})
        return [list(job) for job in itertools.product(*axes.values())]


OF_ANY_SWEEP = ("timeout", "max_time", "budget", "repeats", "isolate", "retries", "resume")
"""Settings `sweep.KEY` of how jobs are run; alone they do not ask for a search."""


def expand(texts: Iterable[str]) -> list[Override]:
    """Read overrides and expand short forms; the last override of a key wins.

    `resume=last` becomes `resume.from=last`, `fast=true` becomes `fast=on`, and `sweep.KEY` becomes a setting of
    lrflow's sweeper, which is then chosen. It is also chosen with launchers that start processes, since Hydra's own
    sweeper (1.3.8) drops the results of their jobs and stops at the first that fails. Without a setting of a search, it
    runs the grid.
    """
    given = [Override.read(text) for text in texts]
    written = [_written_out(override) for override in given]
    keys = {override.key for override in given}
    ours = any(key.startswith("sweep.") for key in keys)
    searches = any(name.startswith("sweep.") and name.removeprefix("sweep.") not in OF_ANY_SWEEP for name in keys)
    searches |= ours and any("interval(" in override.given for override in given)
    launchers = {override.given for override in given if override.key == "hydra/launcher"}
    if not keys & {"hydra/sweeper", "sweep"} and (ours or launchers - {"basic", "vectorized"}):
        written.append(Override("hydra/sweeper", "lrflow"))
        written += [] if searches or "sweep.resume" in keys else [Override("hydra.sweeper.sampler", "grid")]
    return last_of_each(written)


def last_of_each(overrides: Iterable[Override]) -> list[Override]:
    """Return the overrides without those that a later override of the same key replaces."""
    given = list(overrides)
    last = {override.key: at for at, override in enumerate(given)}
    return [override for at, override in enumerate(given) if last[override.key] == at]


_SWITCHES = {"true": "on", "false": "off", "yes": "on", "no": "off", "1": "on", "0": "off"}
"""Ways to write fast=true, and the option that each chooses."""


def _written_out(override: Override) -> Override:
    """Return an override with its short form expanded."""
    key, value = override.key, override.value
    if key == "resume" and value is not None and not value.startswith("{"):
        key = "resume.from"
    elif key == "fast" and override.given.lower() in _SWITCHES:
        value = _SWITCHES[override.given.lower()]
    elif key.startswith("sweep."):
        key = f"hydra.sweeper.{key.removeprefix('sweep.')}"
    return dataclasses.replace(override, key=key, value=value, short=None if key == override.key else override.key)


def as_typed(problems: Iterable[Problem], overrides: Iterable[Override]) -> list[Problem]:
    """Return problems with the keys that were typed, such as `sweep.seed` for `hydra.sweeper.seed`."""
    short = {override.key: override.short for override in overrides if override.short}
    return [problem.under(short.get(problem.key) or problem.key) for problem in problems]


def typed_keys(overrides: Iterable[Override]) -> frozenset[str]:
    """Return the keys whose values the user typed, as opposed to values that a file gives.

    The choice of an option is not among them, since the values of an option come from its file. Of a typed mapping,
    only the keys of its values are: other keys of the mapping may come from a file.

    Args:
        overrides: as Hydra receives them: values with the sign `++`, choices without a sign.
    """
    return frozenset(
        key
        for override in overrides
        if not (override.saved or override.deletes) and (override.sign or override.of_hydra) and override.is_readable
        for key in _keys_in(override.parsed.value(), override.key)
    )


def _keys_in(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _keys_in(item, f"{key}.{name}")
    else:
        yield key


def read_overrides(overrides: Iterable[Override], catalogue: Catalogue, sweep: bool = False) -> Overrides:
    """Check overrides and convert the valid ones for Hydra.

    Values are passed to Hydra with `++`, so that the schemas decide which keys exist: they report all unknown keys at
    once, and accept an argument of a `_target_` that no option mentions. Hydra would stop at the first one and suggest
    a fix that ends in a traceback.

    Args:
        overrides: overrides as typed, short forms expanded.
        catalogue: groups and their options.
        sweep: whether a key may have several values (`-m`).
    """
    result, overrides = Overrides(), list(overrides)
    for override in overrides:
        if len(override.text) > _LONGEST:
            message, hint = f"is longer than {_LONGEST:,} characters", "put it into a file of a folder: --config-dir"
            result.problems.append(Problem(override.key[:60], message, hint=hint))
            continue
        if problem := secret_problem(override.key, override.given):
            result.problems.append(problem)
            continue
        problem = _unreadable(override, catalogue) or _searchpath(override) or _several(override, sweep)
        problem = problem or axis_problem(override.key, override.given, override.parsed.value())
        if problem := problem or _choice(override, catalogue):
            result.problems.append(problem)
            if catalogue.options(override.key):
                result.lost.append(override.key)
            continue
        result.ready.append(_for_hydra(override, catalogue))
    result.problems = as_typed(result.problems, overrides)
    return result


def _unreadable(override: Override, catalogue: Catalogue) -> Problem | None:
    if override.value is None and not override.deletes:
        option = catalogue.find(override.text)
        hint = f"did you mean {option.group}={option.name}?" if option else "such as optimizer=sgd or optimizer.lr=0.01"
        return Problem(override.text, "expected key=value", ..., hint)
    key, value = override.key, override.given
    if not is_writable(override.text):
        return Problem(
            key, "holds NUL, or bytes that are no text in UTF-8", value, "use a UTF-8 locale, such as LC_ALL=C.UTF-8"
        )
    if key.strip():
        try:
            if override.parsed is not None:
                return None
        except UnreadableError as error:
            return Problem(key, f"the value {error}", value)
        except HydraException:
            pass
    if not key.strip():
        return Problem(override.text, "expected key=value", ..., "such as optimizer=sgd or optimizer.lr=0.01")
    if any(sign.isspace() for sign in key):
        return Problem(key.strip(), "a key cannot contain spaces", value)
    if (shorter := value.rstrip(", ")) != value and Override(key, shorter).is_readable:
        return Problem(key, "the value ends with a comma", value, f"{key}={shorter}")
    if problem := call_problem(override.text, key, value):
        return problem
    hint = f"""put special characters in quotes: '{override.sign}{key}="{value}"'"""
    return Problem(key, "the value cannot be parsed", value, hint)


def _searchpath(override: Override) -> Problem | None:
    if override.key != "hydra.searchpath":
        return None
    return Problem("hydra.searchpath", "use --config-dir for a folder with more options", override.parsed.value())


def _several(override: Override, sweep: bool) -> Problem | None:
    key, value, parsed = override.key, override.given, override.parsed
    if parsed.is_sweep_override() and override.deletes:
        return Problem(key, "a deleted key cannot be swept", value, f"~{key} deletes it")
    if not parsed.is_sweep_override() or sweep:
        return None
    may_be_list = parsed.is_choice_sweep() and ("." in key or key in COMBINED)
    hint = "add -m to run one job per value" + (f", or write a list as {key}=[{value}]" if may_be_list else "")
    return Problem(key, "several values need a sweep", value, hint)


def _choice(override: Override, catalogue: Catalogue) -> Problem | None:
    """Return the problem of the chosen option of a group, or None."""
    parsed = override.parsed
    options = catalogue.options(parsed.key_or_group)
    value: Any = parsed.value()
    if parsed.value_type is ValueType.GLOB_CHOICE_SWEEP:
        found = value.filter(list(options))
        return None if found else Problem(override.key, "matches no option of a group", override.given)
    if override.deletes and (options or "/" in override.key) and not isinstance(value, str | None):
        return Problem(override.key, "expected the name of the option to leave out", override.given)
    if not options or override.deletes:
        return None
    if parsed.is_choice_sweep():
        value = list(parsed.sweep_string_iterator())
    elif isinstance(value, list) and override.key not in COMBINED:
        hint = f"such as {override.key}={value[0]}" if len(value) == 1 else None
        return Problem(override.key, "expected the name of one option", override.given, hint)
    chosen = value if isinstance(value, list) else [value]
    if override.key in COMBINED:  # in a sweep, several chosen at once are the text [a,b]
        texts = (one.strip("[]").split(",") if isinstance(one, str) else [one] for one in chosen)
        chosen = [name.strip(" '") if isinstance(name, str) else name for names in texts for name in names if name]
    for name in chosen:
        if isinstance(name, dict) or name is None or name == "null" or str(name) in options:
            continue
        close = closest(str(name), options)
        hint = f"did you mean {override.key}={close}?" if close else did_you_mean(str(name), options)
        if override.key == "fast":
            hint = "fast=true or fast=false"
        elif own := next(iter(sorted(Path().glob(f"*/{override.key}/{name}.yaml"))), None):
            hint = f"{own} has this name: add --config-dir {own.parts[0]}"
        elif not close and not catalogue.has_own:
            hint = f"{hint or 'lrflow has no similar option'}; for your own options add --config-dir FOLDER"
        return Problem(override.key, "there is no such option", name, hint)
    return None


def _for_hydra(override: Override, catalogue: Catalogue) -> Override:
    """Return the override in the form that Hydra needs."""
    parsed = override.parsed
    if override.deletes or override.of_hydra:
        return override
    if parsed.value_type is ValueType.GLOB_CHOICE_SWEEP:
        options: Any = parsed.value()
        override = Override(override.key, ",".join(options.filter(list(catalogue.options(parsed.key_or_group)))))
    chooses = bool(catalogue.options(parsed.key_or_group)) and not isinstance(parsed.value(), dict)
    return override.with_sign("" if chooses else "++")


def values_of(texts: Iterable[str]) -> dict[str, str]:
    """Return the text of the value that overrides give to each key."""
    return {override.key: override.given for override in map(Override.read, texts)}
