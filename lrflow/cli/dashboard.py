"""`lrflow dashboard`: its words, and what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrflow.config.packages import is_installed, missing_package
from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.files import is_folder
from lrflow.runs import OUTPUT

_SETTINGS = ("port", "open")
_LAST_PORT = 65535


def dashboard(words: Sequence[str]) -> None:
    """Serve the runs below a folder until Ctrl-C.

    Args:
        words: a folder, `outputs` without one, and settings as `key=value`.

    Raises:
        ConfigError: an unknown setting, a wrong value, no such folder, a port in use, or a package is missing.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word and not is_folder(Path(word)))
    folders = [word for word in words if word.partition("=")[0] not in given]
    problems = [
        Problem(key, f"expected one of {', '.join(_SETTINGS)}", value, did_you_mean(key, _SETTINGS))
        for key, value in given.items()
        if key not in _SETTINGS
    ]
    folder, port, opens = Path(folders[0] if folders else OUTPUT), given.get("port", "0"), given.get("open", "false")
    if len(folders) > 1:
        problems.append(Problem("lrflow dashboard", "takes one folder", " ".join(folders)))
    elif not is_folder(folder):
        hint = "train a run first, or give the folder of the runs" if not folders else None
        problems.append(Problem("lrflow dashboard", "there is no such folder", str(folder), hint))
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) <= _LAST_PORT):
        problems.append(Problem("port", f"expected a number up to {_LAST_PORT:,}; 0 takes one that is free", port))
    if opens not in ("true", "false"):
        problems.append(Problem("open", "expected true or false", opens, did_you_mean(opens, ("true", "false"))))
    missing = [package for package in ("starlette", "uvicorn") if not is_installed(package)]
    problems += [missing_package(package, "lrflow dashboard") for package in missing[:1]]
    if problems:
        raise ConfigError(problems)
    from lrflow.dashboard.serve import serve

    serve(folder, int(port), opens == "true")
