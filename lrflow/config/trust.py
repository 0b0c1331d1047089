"""Which packages a config may build objects from, beside lrflow's own list: the user says so, never a config."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from lrflow.errors import ConfigError, Problem

VARIABLE = "LRFLOW_TRUST"
_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*")


def trusted() -> tuple[str, ...]:
    """The packages that the user trusts: of the environment variable LRFLOW_TRUST and of `[tool.lrflow] trust` in
    the pyproject.toml of the working directory. `trust=` on the command line sets the variable.

    Raises:
        ConfigError: something else than names of packages stands there.
    """
    packages = [*read_names(os.environ.get(VARIABLE, ""), VARIABLE), *_of_project(Path("pyproject.toml"))]
    if packages and "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return tuple(dict.fromkeys(packages))


def trust_packages(packages: Iterable[str]) -> None:
    """Trusts more packages in this process and in those that it starts."""
    known = read_names(os.environ.get(VARIABLE, ""), VARIABLE)
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*known, *packages]))


def read_names(text: str, key: str) -> list[str]:
    """The package names in `my_pkg,other` or `[my_pkg,other]`.

    Raises:
        ConfigError: one of them cannot name a package.
    """
    names = [name.strip().strip("'\"") for name in text.strip().removeprefix("[").removesuffix("]").split(",")]
    return [_checked(name, key) for name in names if name]


def _of_project(path: Path) -> list[str]:
    if not path.is_file():
        return []
    key = "[tool.lrflow] trust"
    try:
        found = _parsed(path.read_text(encoding="utf-8")).get("tool", {}).get("lrflow", {}).get("trust", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(key, f"./{path} cannot be read: {error}")]) from None
    if not isinstance(found, list):
        raise ConfigError([Problem(key, "expected a list of package names", found, where=f"./{path}")])
    return [_checked(name, key) for name in found]


@lru_cache(maxsize=1)  # it is asked for at each object that is built
def _parsed(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def _checked(name: object, key: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError([Problem(key, "expected the name of a Python package", name)])
    return name
