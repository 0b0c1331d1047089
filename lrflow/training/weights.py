"""Weights to start from: those of an earlier run or of a file, for a model that may have a new head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lrflow.errors import ConfigError, Problem
from lrflow.layers.explain import abbreviated, nearest_names
from lrflow.layers.rules import compile_pattern
from lrflow.training.checkpoint_io import read_checkpoint

_INSIDE = ("state_dict", "model")
"""Where files keep the tensors, if not at the top."""
_WRAPPERS = ("model.", "module.", "_orig_mod.")
"""What wrappers put before the names: lrflow's and many others, DistributedDataParallel, torch.compile."""


def load_weights(model: nn.Module, path: Path, fresh: Sequence[str] = ()) -> str:
    """Let a model start from the parameters and buffers of a file.

    Names are compared without what a wrapper puts before all of them (`model.`, `module.`). Whatever does not fit is an
    error, unless `fresh` names it.

    Args:
        model: changed in place.
        path: a checkpoint or a state dict, as torch saves it.
        fresh: names that are not taken over, globs or `re:`; the model's tensors of such a name stay as they are.

    Returns:
        A line on what was taken, what of the model stayed fresh, and what of the file was left out.

    Raises:
        ConfigError: tensors are missing, of another shape, or have no place in the model; each by its name.
        BrokenCheckpointError: the file cannot be read, or holds more than plain data and tensors.
    """
    given, own = _unwrapped(_read(path), model.state_dict()), model.state_dict()
    patterns = {text: compile_pattern(text) for text in fresh}
    names = {*given, *own}
    problems = [
        Problem(
            "model.fresh", "matches no tensor of the model or of the file", text, nearest_names(text, sorted(names))
        )
        for text, pattern in patterns.items()
        if not any(map(pattern.fullmatch, names))
    ]
    names -= {name for name in names if any(pattern.fullmatch(name) for pattern in patterns.values())}
    for what, found in _differences(given, own, names).items():
        if found:
            message = f"{what}: {abbreviated(found)}"
            problems.append(Problem("model.init_from", message, str(path), "model.fresh leaves tensors out by name"))
    if problems:
        raise ConfigError(problems)
    model.load_state_dict({**own, **{name: given[name] for name in names}})
    stayed, unused = [name for name in own if name not in names], [name for name in given if name not in own]
    told = f"weights of {path}: took {len(names)} of {len(own)} tensors"
    told += f"; {len(stayed)} stayed fresh ({abbreviated(stayed)})" if stayed else ""
    return told + (f"; left {len(unused)} of the file out ({abbreviated(unused)})" if unused else "")


def _read(path: Path) -> dict[str, Tensor]:
    content: Any = read_checkpoint(path, map_location="cpu")
    inner = next((content[key] for key in _INSIDE if isinstance(content.get(key), Mapping)), content)
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ConfigError([Problem("model.init_from", "holds no tensors by name", str(path))])
    return tensors


def _unwrapped(given: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names that the model has for them."""
    while wrapper := next((word for word in _WRAPPERS if all(name.startswith(word) for name in given)), None):
        if all(name.startswith(wrapper) for name in own):
            break
        given = {name.removeprefix(wrapper): value for name, value in given.items()}
    return given


def _differences(given: Mapping[str, Tensor], own: Mapping[str, Tensor], names: set[str]) -> dict[str, list[str]]:
    """What does not fit, by what is wrong with it."""
    both = [name for name in own if name in names and name in given]
    return {
        "the file lacks tensors of the model": [name for name in own if name in names and name not in given],
        "tensors have another shape there": [
            f"{name} {list(own[name].shape)} ({list(given[name].shape)} there)"
            for name in both
            if own[name].shape != given[name].shape
        ],
        "the model has no place for tensors of the file": [name for name in given if name in names and name not in own],
    }
