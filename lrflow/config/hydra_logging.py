"""Checks of Hydra's logging: what writes to the terminal or to a log file in the run folder, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lrflow.errors import Problem, did_you_mean

_COLORED = "colorlog.ColoredFormatter"
_FOLDER = re.compile(r"\$\{\s*hydra\s*[.:]\s*runtime\.output_dir\s*\}/")
_LOG_FILE = re.compile(r"\w[\w.+=,@ -]*\.log")
_FORMATTER = {
    "class": lambda value: value in ("logging.Formatter", _COLORED),
    "()": lambda value: value == _COLORED,
    "format": lambda value: isinstance(value, str),
    "datefmt": lambda value: value is None or isinstance(value, str),
    "style": lambda value: value == "%",  # the fields of "{" can show any attribute of an object
    "validate": lambda value: isinstance(value, bool),
    "log_colors": lambda value: _are_texts(value),
    "reset": lambda value: isinstance(value, bool),
}
_LEVEL: Callable[[Any], bool] = lambda value: isinstance(value, int | str) and bool(re.fullmatch(r"\w+", str(value)))  # noqa: E731
_NAMES: Callable[[Any], bool] = lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value)  # noqa: E731
_HANDLER = {
    "class": lambda value: value in ("logging.StreamHandler", "logging.FileHandler"),
    "formatter": lambda value: isinstance(value, str),
    "level": _LEVEL,
    "filters": _NAMES,
    "stream": lambda value: value in ("ext://sys.stdout", "ext://sys.stderr"),
    "filename": lambda value: isinstance(value, str),
    "mode": lambda value: value in ("a", "w"),
    "encoding": lambda value: value is None or isinstance(value, str),
    "delay": lambda value: isinstance(value, bool),
}
_FILTER = {"name": lambda value: isinstance(value, str)}
_LOGGER = {
    "level": _LEVEL,
    "handlers": _NAMES,
    "filters": _NAMES,
    "propagate": lambda value: isinstance(value, bool),
}
_PARTS = {"formatters": _FORMATTER, "handlers": _HANDLER, "filters": _FILTER, "loggers": _LOGGER}
_FLAGS = {
    "version": lambda value: value == 1,
    "disable_existing_loggers": lambda value: isinstance(value, bool),
    "incremental": lambda value: isinstance(value, bool),
}


def check_logging(content: Any, written: Any, key: str, is_typed: Callable[[str], bool]) -> Iterator[Problem]:
    """Yield a problem for each setting that could do more than write a log to the terminal or to the run folder.

    Args:
        content: `hydra.job_logging` or `hydra.hydra_logging`, resolved.
        written: the same with interpolations.
        key: its key.
        is_typed: whether the command line gives a key, and not a file.
    """
    if not isinstance(content, dict):
        yield Problem(key, "expected a logging configuration", content)
        return
    for name, value in content.items():
        place = f"{key}.{name}"
        if name in _PARTS:
            if not isinstance(value, dict):
                yield Problem(place, "expected a mapping of names to settings", value)
                continue
            for item, settings in value.items():
                own = written[name][item]
                yield from _settings(settings, own, f"{place}.{item}", _PARTS[name], is_typed)
        elif name == "root":
            yield from _settings(value, written[name], place, _LOGGER, is_typed) if value is not None else ()
        elif name not in _FLAGS:
            yield Problem(place, "there is no such key", value, did_you_mean(str(name), [*_PARTS, "root", *_FLAGS]))
        elif not _FLAGS[name](value):
            yield Problem(place, "a config may not log this way", value)


def _settings(
    content: Any, written: Any, key: str, known: Mapping[str, Callable[[Any], bool]], is_typed: Callable[[str], bool]
) -> Iterator[Problem]:
    """Yield a problem for each unknown key and each value that is not of its kind."""
    if not isinstance(content, dict):
        yield Problem(key, "expected a mapping of settings", content)
        return
    for name, value in content.items():
        if name not in known:
            yield Problem(f"{key}.{name}", "there is no such key here", value, did_you_mean(str(name), known))
        elif not known[name](value):
            yield Problem(f"{key}.{name}", "a config may not log this way", value)
    if "()" in content and "class" in content:
        yield Problem(f"{key}.()", "cannot be given beside class", content["()"])
    if content.get("class") == "logging.FileHandler" and not is_typed(f"{key}.filename"):
        name = str(content.get("filename")).partition("/")[2]  # the output folder of the checks is a single name
        if not _FOLDER.match(str(written.get("filename"))) or not _LOG_FILE.fullmatch(name):
            hint = "${hydra.runtime.output_dir}/NAME.log"
            yield Problem(f"{key}.filename", "a file may log only into the run folder", written.get("filename"), hint)


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for item in value.items() for text in item)
