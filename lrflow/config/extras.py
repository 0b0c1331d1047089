"""Packages that only an extra of lrflow's installs, and what to do where one is missing."""

from __future__ import annotations

import importlib.util

from lrflow.errors import Problem

EXTRAS = {
    "schedulefree": ("schedulefree", "optimizers"),
    "prodigyopt": ("prodigyopt", "optimizers"),
    "pytorch_optimizer": ("pytorch-optimizer", "optimizers"),
}
"""Packages that only an extra of lrflow's installs: what each is called in the index, and the extra."""

NEEDS = {**{package: package for package in EXTRAS}, "lrflow.optimizers.shampoo": "pytorch_optimizer"}
"""Which of these packages the targets below a module need."""


def check_installed(target: str, key: str, option: str | None = None) -> Problem | None:
    """What is missing to build a target, where that is a package of one of lrflow's extras; nothing is imported.

    Args:
        target: the dotted name.
        key: of the node that names it, `optimizer`.
        option: what was chosen there, `lion`; None: the target was given by itself.
    """
    package = next((package for place, package in NEEDS.items() if f"{target}.".startswith(f"{place}.")), None)
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    distribution, extra = EXTRAS[package]
    where, value = (key, option) if option else (f"{key}._target_", target)
    message = f"needs the package {distribution}, which is not installed"
    return Problem(where, message, value, f"pip install 'lrflow[{extra}]'")
