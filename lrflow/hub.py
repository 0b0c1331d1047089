"""Where the files of a model or a data set of Hugging Face are: in a folder, or in the cache of what the hub gave."""

from __future__ import annotations

import importlib.util
from pathlib import Path, PurePosixPath

from lrflow.errors import ConfigError, Problem, shortened
from lrflow.files import did_you_mean_path, expanded, is_folder

PACKAGE = "package:"
"""Begins the path of a folder or file in an installed package: `package:NAME/PATH`."""


def package_named(path: str) -> str:
    """Return the package whose folder a path is in; an empty text if it is in none."""
    return path.removeprefix(PACKAGE).partition("/")[0] if path.startswith(PACKAGE) else ""


def located(given: str, key: str) -> Path:
    """Return the path of a file or folder; `package:NAME/PATH` lies in an installed package, which is not imported.

    Raises:
        ConfigError: there is no such package, or the path leaves it.
    """
    if not given.startswith(PACKAGE):
        return expanded(given)
    name, below = package_named(given), given.removeprefix(PACKAGE).partition("/")[2]
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError([Problem(key, f"there is no package {name!r} with files", given, "install it")])
    if ".." in PurePosixPath(below).parts:
        raise ConfigError([Problem(key, "leaves the folder of the package", given)])
    return Path(next(iter(spec.submodule_search_locations))) / below


def is_path(name: str) -> bool:
    """Return whether a name means a folder, and not a repository of the hub such as `google/vit-base-patch16-224`."""
    return name.startswith((".", "/", "~", PACKAGE)) or name.count("/") > 1 or is_folder(expanded(name))


def find_file(name: str, file: str, key: str) -> Path:
    """Return the path of a file of a model, downloaded if neither a folder nor the hub's cache has it.

    `HF_HOME` and `HF_HUB_OFFLINE` count, as in all of Hugging Face's packages.

    Args:
        name: a folder, also `package:NAME/PATH` in an installed package, or a name on the Hugging Face Hub.
        file: its name there, such as `config.json`.
        key: config key of the name.

    Raises:
        ConfigError: there is no such folder, or it has no such file; or the hub has none, or cannot be reached.
    """
    if is_path(name):
        folder = located(name, key)
        if not is_folder(folder):
            raise ConfigError([Problem(key, "there is no such folder", name, did_you_mean_path(folder))])
        if not (folder / file).is_file():
            message = f"the folder has no {file}"
            raise ConfigError([Problem(key, message, name, "expected what save_pretrained of transformers wrote")])
        return folder / file
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it tries again a few times where there is no network, and says so each time
    try:
        cached = try_to_load_from_cache(name, file)
        return Path(cached if isinstance(cached, str) else hf_hub_download(name, file))
    except Exception as error:  # of the hub, its HTTP client or the operating system, each with types of its own
        raise ConfigError([not_found(name, key, error)]) from error


def not_found(name: str, key: str, error: Exception) -> Problem:
    """Return the problem of a name that is no folder, is not in the cache, and that the hub did not give.

    Args:
        name: the name.
        key: its config key.
        error: what the hub or the network raised.
    """
    reason = shortened(str(error).strip().partition("\n")[0] or type(error).__name__, 120)
    message = "is no folder, is not in the cache of the Hugging Face Hub, and could not be downloaded"
    instead = "give the path of a folder, or download it where there is a network"
    return Problem(key, f"{message}: {reason}", name, did_you_mean_path(Path(name).expanduser()) or instead)
