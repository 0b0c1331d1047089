"""Parse the command line: overrides and flags, and the overrides of a sweep that is resumed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lrflow.errors import ConfigError, Problem

if TYPE_CHECKING:
    from lrflow.config.composition.overrides import Override

PARTS = {
    "cfg": ("job", "hydra", "all"),
    "info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
"""Values that these flags take."""


@dataclass(frozen=True)
class Arguments:
    """A parsed command line.

    Args:
        overrides: overrides as typed, without `trust=`.
        trust: packages named by `trust=`.
        help, version, multirun, hydra_help, shell_completion, resolve: True if the flag was given.
        cfg: part of the config to print: `job`, `hydra` or `all`; None prints nothing.
        info: topic of Hydra's `--info` to print; None prints nothing.
        package: key of the config to which `--cfg` is limited.
        config_dir: folder with additional options.
        owns_process: whether this process runs nothing else than the command.
    """

    overrides: tuple[str, ...]
    trust: tuple[str, ...] = ()
    help: bool = False
    version: bool = False
    multirun: bool = False
    hydra_help: bool = False
    shell_completion: bool = False
    resolve: bool = False
    cfg: str | None = None
    info: str | None = None
    package: str | None = None
    config_dir: Path | None = None
    owns_process: bool = False

    def for_hydra(self, overrides: Sequence[str]) -> list[str]:
        """Command line for Hydra, with these overrides."""
        words = []
        for flag, given in (
            ("--multirun", self.multirun),
            ("--hydra-help", self.hydra_help),
            ("--shell-completion", self.shell_completion),
        ):
            words += [flag] if given else []
        words += ["--info", self.info] if self.info else []
        if self.config_dir is not None:
            words += ["--config-dir", str(self.config_dir.resolve())]
        return [*words, *overrides]


class Parser(argparse.ArgumentParser):
    """Argument parser that raises ConfigError instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as the problem of the command line."""
        raise ConfigError([Problem("command line", message, hint="see --help")])


def parse(words: Sequence[str]) -> Arguments:
    """Parse a command line.

    Raises:
        ConfigError: unknown flag, value that a flag does not take, or flags that exclude each other.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-r", "--run", action="store_true")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-c", "--cfg")
    parser.add_argument("-p", "--package")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("-i", "--info", nargs="?", const="all")
    found, unknown = parser.parse_known_intermixed_args(list(words))
    problems = [_unknown(word, parser) for word in unknown]
    for flag, given in (("cfg", found.cfg), ("info", found.info)):
        if given is not None and given not in PARTS[flag]:
            problems.append(Problem(f"--{flag}", f"expected one of {', '.join(PARTS[flag])}", given))
    if found.resolve and not found.cfg:
        problems.append(Problem("--resolve", "needs --cfg job"))
    if sum(map(bool, (found.multirun, found.cfg, found.info))) > 1:
        problems.append(Problem("command line", "--multirun, --cfg and --info exclude each other"))
    if problems:
        raise ConfigError(problems)

    from lrflow.config.packages import read_names

    trust = [word for word in found.overrides if word.startswith("trust=")]
    names = [name for word in trust for name in read_names(word.partition("=")[2], "trust")]
    rest = [word for word in found.overrides if word not in trust]
    options = {key: value for key, value in vars(found).items() if key not in ("overrides", "run")}
    return Arguments(overrides=tuple(rest), trust=tuple(names), **options)


def _unknown(word: str, parser: argparse.ArgumentParser) -> Problem:
    from lrflow.config.diagnostics import closest

    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    close = closest(word.partition("=")[0], flags)
    hint = f"did you mean {close}?" if close else "write overrides as key=value, without dashes: optimizer.lr=0.01"
    return Problem(word, "no such flag", hint=hint)


def with_earlier_sweep(overrides: Sequence[Override]) -> tuple[list[Override], bool]:
    """Return the overrides of the sweep that `sweep.resume=` names, followed by the typed ones.

    Args:
        overrides: overrides as typed, short forms expanded.

    Returns:
        The overrides, and whether they resume a sweep of Hydra's own sweeper, which has no record of its trials.

    Raises:
        ConfigError: there is no such sweep, or it has no such settings.
    """
    typed = {override.key: override for override in overrides}
    asked = typed.get("hydra.sweeper.resume")
    if asked is None or asked.value in (None, "null"):
        return list(overrides), False
    from lrflow.config.composition.overrides import Override
    from lrflow.runs import OUTPUT
    from lrflow.sweeps.folders import find_sweep, overrides_of_grid
    from lrflow.sweeps.study import read_record

    output = Path(typed["output"].plain if "output" in typed else OUTPUT)
    folder = find_sweep(asked.plain, output, "sweep.resume", searched=True)
    own: tuple[str, ...] = ("hydra.sweeper.resume", "hydra.sweep.dir")
    of_grid = overrides_of_grid(folder)
    if of_grid is not None:
        settings = [o for o in overrides if o.key.startswith("hydra.sweeper.") and o.key != "hydra.sweeper.resume"]
        if settings:
            message = "this sweep was started without settings of a search, and is resumed without"
            raise ConfigError(Problem(f"sweep.{o.key[14:]}", message, o.value, "leave it out") for o in settings)
        own = (*own, "hydra/sweeper")
    before = [replace(Override.read(text), saved=True) for text in of_grid or read_record(folder)["overrides"]]
    kept = [one for one in before if one.key not in typed and one.key not in (*own, "hydra.mode")]  # -m sets the mode
    rest = [override for override in overrides if override.key not in own]
    named = ("hydra.sweep.dir",) if of_grid is not None else own[:2]
    return [*kept, *rest, *(Override.path(key, folder) for key in named)], of_grid is not None


def require_multirun(typed: Sequence[str]) -> None:
    """Check that a command without `-m` has no overrides of a sweep.

    Args:
        typed: overrides of the command.

    Raises:
        ConfigError: some overrides are for sweeps only.
    """
    from lrflow.config.composition.overrides import Override

    problems = [
        Problem(override.key, "needs a sweep", override.value, "add -m")
        for override in map(Override.read, typed)
        if override.key.partition(".")[0] == "sweep"
    ]
    if problems:
        raise ConfigError(problems)
