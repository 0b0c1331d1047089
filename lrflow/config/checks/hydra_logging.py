"""Checks of Hydra's logging: what writes to the terminal or to a log file in the run folder, and nothing else."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lrflow.errors import Problem, did_you_mean

_COLORED = "colorlog.ColoredFormatter"
_FOLDER = re.compile(r"\$\{\s*hydra\s*[.:]\s*runtime\.output_dir\s*\}/")
_LOG_FILE = re.compile(r"\w[\w.+=,@ -]*\.log")
_IMPORTS = re.compile(r"[a-z]+://")  # of `ext://module.name`, logging.config imports the module


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _IMPORTS.match(value)


def _is_text_or_null(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_level(value: Any) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number or (isinstance(value, str) and value in logging.getLevelNamesMapping())


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_colors(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(text) for item in value.items() for text in item)


_RAW = re.compile(r"%\((msg|args|exc_info)\)|%\([^)]*\)[-#0 +.\d]*\d{4}")
"""What a format must not have: a field whose secrets are not masked yet, or one so wide that it fills the memory."""
_FORMATTER: dict[str, Callable[[Any], bool]] = {
    "class": lambda value: value in ("logging.Formatter", _COLORED),
    "()": lambda value: value == _COLORED,
    "format": lambda value: _is_text(value) and not _RAW.search(value),
    "datefmt": _is_text_or_null,
    "style": lambda value: value == "%",  # the fields of "{" can show any attribute of an object
    "validate": _is_switch,
    "log_colors": _are_colors,
    "reset": _is_switch,
}
_HANDLER: dict[str, Callable[[Any], bool]] = {
    "class": lambda value: value in ("logging.StreamHandler", "logging.FileHandler"),
    "formatter": _is_text,
    "level": _is_level,
    "filters": _are_names,
    "stream": lambda value: value in ("ext://sys.stdout", "ext://sys.stderr"),
    "filename": _is_text,
    "mode": lambda value: value in ("a", "w"),
    "encoding": _is_text_or_null,
    "delay": _is_switch,
}
_FILTER = {"name": _is_text}
_LOGGER = {"level": _is_level, "handlers": _are_names, "filters": _are_names, "propagate": _is_switch}
_PARTS: dict[str, Mapping[str, Callable[[Any], bool]]] = {
    "formatters": _FORMATTER,
    "handlers": _HANDLER,
    "filters": _FILTER,
    "loggers": _LOGGER,
}
_FLAGS: dict[str, Callable[[Any], bool]] = {
    "version": lambda value: value == 1,
    "disable_existing_loggers": _is_switch,
    "incremental": _is_switch,
}


def check_logging(content: Any, written: Any, key: str, is_typed: Callable[[str], bool]) -> Iterator[Problem]:
    """Yield a problem for each setting that could do more than write a log to the terminal or to the run folder.

    And for each that `logging.config` cannot take, since it would raise when the run starts.

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
    for name, value in (("version", 1), ("root", "null")):
        if name not in content:
            yield Problem(f"{key}.{name}", "must be given a value", hint=f"such as {name}: {value}")
    yield from _undefined(content, key)


def _undefined(content: Mapping[str, Any], key: str) -> Iterator[Problem]:
    """Yield a problem for each class that is missing and each name of a formatter, handler or filter without one."""
    parts = {part: content[part] if isinstance(content.get(part), dict) else {} for part in _PARTS}
    users = {f"{key}.{part}.{name}": one for part in ("handlers", "loggers") for name, one in parts[part].items()}
    users[f"{key}.root"] = content.get("root")
    for place, settings in users.items():
        if not isinstance(settings, dict):
            continue
        if place.startswith(f"{key}.handlers.") and "class" not in settings:
            yield Problem(f"{place}.class", "must be given a value", hint="such as logging.StreamHandler")
        for setting, part in (("formatter", "formatters"), ("handlers", "handlers"), ("filters", "filters")):
            given = settings.get(setting)
            for name in given if isinstance(given, list) else [given]:
                if isinstance(name, str) and name not in parts[part]:
                    message = f"there is no such {part.removesuffix('s')}"
                    yield Problem(f"{place}.{setting}", message, name, did_you_mean(name, map(str, parts[part])))


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
            levels = logging.getLevelNamesMapping()
            hint = did_you_mean(str(value).upper(), levels) if name == "level" else None
            yield Problem(f"{key}.{name}", "a config may not log this way", value, hint)
    if "()" in content and "class" in content:
        yield Problem(f"{key}.()", "cannot be given beside class", content["()"])
    if content.get("class") == "logging.FileHandler" and not is_typed(f"{key}.filename"):
        name = str(content.get("filename")).partition("/")[2]  # the output folder of the checks is a single name
        if not _FOLDER.match(str(written.get("filename"))) or not _LOG_FILE.fullmatch(name):
            hint = "${hydra.runtime.output_dir}/NAME.log"
            yield Problem(f"{key}.filename", "a file may log only into the run folder", written.get("filename"), hint)
