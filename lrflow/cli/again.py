"""Commands about an earlier run: they take its configuration, with what is typed on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lrflow.config import load_config
from lrflow.config.validation import META
from lrflow.errors import ConfigError, Problem
from lrflow.runs import find_checkpoint

_OUTPUT = "outputs"  # where runs are looked for when the command line does not say


def with_earlier_run(overrides: Sequence[str]) -> list[str]:
    """The overrides of the run that `resume=` or `task=evaluate` speaks of, and then those that are typed.

    A key or group that is typed takes the place of the run's own, and another option of a group that of all the run's
    own values of that group. A checkpoint that lies in no run folder brings no overrides: then the command line says
    everything.

    Args:
        overrides: as typed, short forms written out.

    Raises:
        ConfigError: there is no such run, or there are several.
    """
    typed = dict(_split(text) for text in overrides)
    source, key = typed.get("resume.from"), "resume"
    if typed.get("task") == "evaluate":
        if source not in (None, "null"):
            return list(overrides)  # which the checks refuse
        source, key = typed.get("task.from", "last"), "task.from"
    if source is None or source == "null":
        return list(overrides)
    if _is_swept(source) and not Path(source).exists():  # a folder may have a comma in its name
        message = "cannot be swept, since each run brings a configuration of its own"
        raise ConfigError([Problem(key, message, source, "give one run; start lrflow once for each")])
    checkpoint = find_checkpoint(source, Path(typed.get("output", _OUTPUT)), key)
    config = checkpoint.parent.parent / "config.yaml"
    if not config.is_file():
        return list(overrides)
    earlier = load_config(config)[META]
    replaced = [f"{group}." for group, option in earlier.choices.items() if typed.get(group, option) != option]
    left_out = ("task", "resume", "against", *replaced)
    keys = {text: _split(text)[0] for text in earlier.overrides}
    kept = [text for text, key in keys.items() if not key.startswith(left_out) and key not in typed]
    # The very checkpoint: a run that is resumed under `last` would find its own new folder.
    named = [f"{key if key != 'resume' else 'resume.from'}={_quoted(checkpoint)}"]
    return [*kept, *(text for text in overrides if _split(text)[0] not in ("resume.from", "task.from")), *named]


def with_earlier_sweep(overrides: Sequence[str]) -> list[str]:
    """The overrides of the sweep that `sweep.resume=` speaks of, and then those that are typed.

    Args:
        overrides: as typed, short forms written out.

    Raises:
        ConfigError: there is no such sweep.
    """
    typed = dict(_split(text) for text in overrides)
    source = typed.get("hydra.sweeper.resume")
    if source in (None, "null"):
        return list(overrides)
    from lrflow.sweeps.reading import find_sweep
    from lrflow.sweeps.record import read_record

    folder = find_sweep(str(source), Path(typed.get("output", _OUTPUT)), "sweep.resume", searched=True)
    kept = [text for text in read_record(folder)["overrides"] if _split(text)[0] not in typed]
    own = ("hydra.sweeper.resume", "hydra.sweep.dir")
    kept = [text for text in kept if _split(text)[0] not in own]
    rest = [text for text in overrides if _split(text)[0] not in own]
    return [*kept, *rest, f"hydra.sweeper.resume={_quoted(folder)}", f"hydra.sweep.dir={_quoted(folder)}"]


def _split(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key.lstrip("+~"), value


def _is_swept(value: str) -> bool:
    """Whether Hydra reads several values in this one."""
    try:
        return OverridesParser.create().parse_override(f"key={value}").is_sweep_override()
    except HydraException:
        return False


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
