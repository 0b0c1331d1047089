"""Paths that a run writes: a file may give only paths below the working directory, the command line any path."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lrflow.config.composition.interpolation import leaves, text_of
from lrflow.config.config import Config
from lrflow.config.origins import is_typed, touches
from lrflow.config.schemas.task import Forecast
from lrflow.errors import ConfigError, Problem
from lrflow.files import expanded
from lrflow.remote import url_of

OUTSIDE = "a file may give only a path below the working directory, without .."

_ANCHOR = re.compile(
    r"\$\{\s*(output|hydra\s*[.:]\s*(run\.dir|sweep\.dir|runtime\.output_dir|runtime\.cwd))\s*\}(?=/|$)"
)
_DOWNLOADS = ("lrflow.data.FashionMNIST", "lrflow.recipes.finetune_vision.data.FewClothes")

_CACHES = ("lrflow.data.Images", "lrflow.data.Text")


def stays_inside(path: str) -> bool:
    """Return whether a path is relative and does not climb out of the folder that it is relative to."""
    parts = {*PurePosixPath(path).parts, *PureWindowsPath(path).parts}
    absolute = path.startswith(("/", "\\", "~")) or bool(PureWindowsPath(path).drive) or "://" in path
    return not absolute and ".." not in parts and path.isprintable()


def stays_below(written: str, resolve: Callable[[str], Any]) -> bool:
    """Return whether a path with interpolations stays inside, or below a folder that is checked itself.

    Args:
        written: path as a file gives it; it may start with `${output}`, `${hydra.sweep.dir}` and the like.
        resolve: returns a text with its interpolations replaced.
    """
    rest = _ANCHOR.sub("", written, count=1) if _ANCHOR.match(written) else written
    return stays_inside(str(resolve(rest if rest == written else rest.lstrip("/"))))


def path_problem(key: str, value: object) -> Problem:
    """Return the problem of a path that only the command line may give."""
    return Problem(key, OUTSIDE, value, f"if you mean it, add {key}=... to the command line")


def check_written_paths(config: Config, typed: Collection[str], named: Collection[Path]) -> list[Problem]:
    """Return a problem for each path outside the working directory that a file gives and the run would write.

    Args:
        config: checked config.
        typed: keys that the command line sets.
        named: folders of the runs and sweeps that the command line names, in which it may write.
    """
    problems = [] if is_typed("output", typed) else [*_output(config, named)]
    for key, value in _written(config):
        if not is_typed(key, typed) and isinstance(value, str) and not stays_inside(value):
            problems.append(path_problem(key, value))
    return problems + [problem for problem in _for_the_command_line(config) if not touches(problem.key, typed)]


def check_links(folder: Path) -> list[Problem]:
    """Return a problem for each link to elsewhere in the folder of a run or sweep that is continued.

    The folder may come from someone else, and lrflow appends to its logs and metrics. `checkpoints` may be a link, so
    that it can lie on another disk.

    Args:
        folder: of a run or a sweep.
    """
    message = "is a link out of the folder that is continued, and lrflow would write there"
    return [Problem(str(path), message, hint="replace it by a copy") for path in _links(folder, folder.resolve())]


def _links(folder: Path, home: Path, depth: int = 2) -> Iterator[Path]:
    """Yield the links in a folder, and in those below it, that lead out of `home`."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink():
            is_outside = not Path(entry.path).resolve().is_relative_to(home)
            if is_outside and not (entry.name == "checkpoints" and entry.is_dir()):
                yield Path(entry.path)
        elif depth and entry.is_dir():
            yield from _links(Path(entry.path), home, depth - 1)


def _output(config: Config, named: Collection[Path]) -> Iterator[Problem]:
    """Yield the problem of `output`; that of an earlier run may be absolute if that run is still in it."""
    written: Any = config.source._get_node("output")
    text = written._value() if written is not None else config.output
    try:
        inside = stays_inside(str(text_of("output", str(text), config.source)))
    except ConfigError as error:
        yield from error.problems
        return
    if not inside or url_of(Path(config.output)) is not None:
        home = Path(config.output).resolve()
        if not any(folder.resolve().is_relative_to(home) for folder in named):
            yield path_problem("output", config.output)


def _written(config: Config) -> Iterator[tuple[str, Any]]:
    """Yield the key and value of each path that a run may write, apart from `output`."""
    yield from leaves(config.logger.plain().get("tensorboard") or {}, "logger.tensorboard")
    if config.logger.mlflow is not None and (file := config.logger.mlflow.file) is not None:
        yield "logger.mlflow.tracking_uri", file
    for name, node in config.logger.nodes().items():
        yield from _of_lightning(node, f"logger.{name}")
    if (source := getattr(config.task, "source", None)) is not None and not isinstance(config.task, Forecast):
        yield "task.from", source  # a forecast only reads there
    for group in ("optimizer", "schedule", "layers", "feedback", "model", "data"):
        section: Any = getattr(config, group)
        if hasattr(section, "target"):
            yield from _of_lightning(section.plain(), group)
    for name, node in config.health.nodes().items():
        yield from _of_lightning(node, f"health.{name}")
    for name, node in config.callbacks.nodes().items():
        yield from _of_lightning(node, f"callbacks.{name}")
    for name, given in config.trainer.plain().items():
        if name in ("strategy", "plugins"):
            yield from _of_lightning(given, f"trainer.{name}")
    data = config.data.plain()
    if config.data.target in _CACHES and data.get("cache", "auto") not in ("auto", "none"):
        yield "data.cache", data["cache"]
    if config.data.target in _DOWNLOADS and data.get("download", True) and data.get("root"):
        from lrflow.data.fashion_mnist.files import find

        if not find(expanded(str(data["root"]))):
            yield "data.root", data["root"]


def _of_lightning(node: Any, key: str, is_argument: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield every argument of Lightning's callbacks, loggers and profilers at any depth of a node.

    Which of them become part of a path is for Lightning to decide, such as the `name` and `version` of a logger.

    Args:
        node: part of the config.
        key: its key.
        is_argument: whether it is an argument of one of Lightning's classes.
    """
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _of_lightning(item, f"{key}[{index}]", is_argument)
    elif isinstance(node, Mapping):
        if "_target_" in node:
            is_argument = str(node["_target_"]).startswith(("pytorch_lightning.", "lightning."))
        for name, value in node.items():
            yield from _of_lightning(value, f"{key}.{name}", is_argument)
    elif is_argument:
        yield key, node


def _for_the_command_line(config: Config) -> Iterator[Problem]:
    """Yield the problem of each key that only the command line may set."""
    if config.resume.source is not None:
        hint = "add resume=... to the command line"
        yield Problem("resume.from", "a file may not resume a run", config.resume.source, hint)
    if config.trial is not None:
        yield Problem("trial", "a file may not make a run a trial; a sweep does", hint="leave it out")
