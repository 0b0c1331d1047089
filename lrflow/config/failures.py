"""Explains failures that are no exceptions of lrflow: by the machine, the data that a model gets, or the user's code.

What is left over is a fault of lrflow or of a package that it uses, and is reported as one.
"""

from __future__ import annotations

import errno
import os
import re
import site
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lrflow
from lrflow.config.composition.options import home
from lrflow.config.packages import trusted
from lrflow.errors import ConfigError, LrflowError, first_named, written
from lrflow.imports import missing_requirement
from lrflow.redaction import redact_text
from lrflow.stops import cause_of


class MachineError(LrflowError):
    """Raised when the machine refuses what a run needs, such as disk space, a file, memory or another process."""


class UnfitError(LrflowError):
    """Raised when model, data and settings of the config do not fit together."""


_ELSEWHERE = "free some space, or write to another disk with output=FOLDER"
_SYSTEM: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("there is no space left on the disk", _ELSEWHERE),
    errno.EDQUOT: ("your quota of the disk is used up", _ELSEWHERE),
    errno.EROFS: ("the disk is read-only", "copy the run to another disk, or start one there with output=FOLDER"),
    errno.EACCES: ("permission denied", ""),
    errno.EPERM: ("the system does not permit it", ""),
    errno.ENAMETOOLONG: ("the name is too long", "most disks allow 255 bytes per name"),
    errno.EMFILE: ("this process has too many open files", "raise the limit, such as with ulimit -n 4096"),
    errno.ENFILE: ("too many files are open on this machine", ""),
    errno.EAGAIN: ("the system allows no further process or thread", "raise the limit, such as with ulimit -u 4096"),
    errno.ENOMEM: ("there is not enough memory", ""),
    errno.EIO: ("the disk reports an error of its own", "write to another disk with output=FOLDER"),
    errno.ESTALE: ("the network folder was lost", "mount it again"),
}
"""Errors of the system: what happened, and what to do."""

_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|cannot allocate memory|STATUS_ALLOC_FAILED|bad_alloc"
    r"|could not create a memory",
    re.IGNORECASE,
)
_WAITED = re.compile(
    r"timed out (waiting|after)|wait timeout|socket ?timeout|collective operation timeout|connection closed by peer"
    r"|connection reset by peer|broken pipe.*gloo|gloo.*broken pipe",
    re.IGNORECASE,
)
_WORKER_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+), in (\S+)', re.MULTILINE)
_SOURCE = re.compile(r"^\[[^\]]+\.(cc|cpp|h):\d+\]\s*")  # torch names the line of its own source first
_LONGEST = 300


def failure(error: BaseException) -> BaseException:
    """Return what ended a run: `cause_of`, in words for the user if the cause is known; its `__cause__` is the rest.

    An exception that passed through the user's code is returned unchanged, since the lines of that code explain it.
    """
    cause = cause_of(error)
    if isinstance(cause, LrflowError) or not isinstance(cause, Exception) or users_frames(cause):
        return cause
    for explain in (_of_packages, _of_system, _of_memory, _of_processes, _of_text, _of_lightning, _of_model):
        if explained := explain(cause):
            explained.__cause__ = cause
            return explained
    return cause


def one_line(error: BaseException) -> str:
    """Return the first line of an exception's message, shortened; its type if it has none."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "").rstrip(".")
    first = redact_text(_SOURCE.sub("", first))  # the rest of a secret that is cut could not be found later
    if isinstance(error, KeyError) or not first:
        first = f"{type(error).__name__}: {first}".rstrip(": ")
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 3]}..."


def users_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of a traceback in the user's code: not in Python, lrflow or a package that is not trusted.

    The code of lrflow's recipes counts as the user's, who copies and changes it.
    """
    try:
        packages = {name.partition(".")[0] for name in trusted()}
    except (ConfigError, OSError):
        packages = set()
    installed = [Path(place).resolve() for place in (*site.getsitepackages(), site.getusersitepackages())]
    own = Path(lrflow.__file__).parent
    places = (sysconfig.get_path("stdlib"), own, own.parent / "hydra_plugins")
    others = [Path(place).resolve() for place in places]
    recipes = home("recipes").resolve()

    def is_users(frame: traceback.FrameSummary) -> bool:
        path = Path(frame.filename).resolve()
        if path.is_relative_to(recipes):
            return True
        for place in installed:  # they may lie in the folder of the standard library
            if path.is_relative_to(place):
                return path.relative_to(place).parts[0].removesuffix(".py") in packages
        return path.is_file() and not any(map(path.is_relative_to, others))

    return [frame for frame in _frames(error) if is_users(frame)]


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of a traceback, and those in a loader's worker process, which are known only as text."""
    frames = list(traceback.extract_tb(error.__traceback__))
    if "in DataLoader worker process" in str(error):
        found = _WORKER_FRAME.findall(str(error))
        frames += [traceback.FrameSummary(file, int(line), name) for file, line, name in found]
    return frames


def _chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """Yield an exception and those that led to it, each with whether `raise ... from` states that it did."""
    seen: BaseException | None = error
    is_stated = True
    while seen is not None:
        yield seen, is_stated
        is_stated &= seen.__cause__ is not None
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _of_system(error: BaseException) -> LrflowError | None:
    """Return the words for an error of the system, also if a library reports it as its own; None: it is none."""
    for one, is_stated in _chain(error):
        # Code that handles a missing file is common; what it raises then is a failure of its own.
        if isinstance(one, OSError) and (one.errno in _SYSTEM or (is_stated and one.errno is not None)):
            return MachineError(system_message(one))
    code = next((code for code in _SYSTEM if os.strerror(code).lower() in str(error).lower()), None)
    if code is None:
        return None
    what, hint = _SYSTEM[code]
    return MachineError(_with_hint(f"{what}: {one_line(error)}", hint))


def system_message(error: OSError) -> str:
    """Return the words for an error of the system: the file, what happened, and what to do."""
    what, hint = _SYSTEM.get(error.errno or 0, (error.strerror or one_line(error), ""))
    if error.errno == errno.ENOENT:
        what = "there is no such file or folder"
        if error.filename is None and not _has_working_directory():
            return _with_hint("the working directory does not exist any more", "change to another folder")
    where = "" if error.filename is None else f"{_shortened(str(error.filename))}: "
    return _with_hint(f"{where}{what}", hint)


def _has_working_directory() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that a device or the machine has not enough memory."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or _MEMORY.search(str(error)) is not None


def _of_memory(error: BaseException) -> LrflowError | None:
    if is_out_of_memory(error):
        asked = re.search(r"tried to allocate ([\d.,]+ ?\w+)", str(error), re.IGNORECASE)
        said = f": {asked.group(1)} were asked for" if asked else f": {one_line(error)}" if str(error) else ""
        hint = "try a smaller model or data.batch_size, which data.effective_batch_size makes up for by accumulation;"
        hint += " task=find find=batch_size measures the largest that fits"
        return MachineError(_with_hint(f"there is not enough memory{said}", hint))
    return None


def _of_packages(error: BaseException) -> LrflowError | None:
    return MachineError(text) if (text := missing_requirement(error)) else None


def _of_processes(error: BaseException) -> LrflowError | None:
    """Return the words for a process of a data-parallel run that does not answer; None: it is another failure."""
    if not (_WAITED.search(str(error)) or type(error).__name__ in ("DistStoreError", "DistNetworkError")):
        return None
    message = f"another process of this run does not answer: {one_line(error)}"
    return MachineError(_with_hint(message, "its own output says why it hangs or ended; trainer.timeout is the wait"))


def _of_text(error: BaseException) -> LrflowError | None:
    if not isinstance(error, UnicodeEncodeError):
        return None
    text = error.object[error.start : error.end].encode("unicode_escape").decode()
    hint = "use a UTF-8 locale, such as LC_ALL=C.UTF-8, or PYTHONIOENCODING=utf-8"
    return MachineError(_with_hint(f"the text {text} cannot be written as {error.encoding}", hint))


def _of_lightning(error: BaseException) -> LrflowError | None:
    """Return the words for what Lightning rejects about the user's module, data or settings; None: it is no such."""
    if type(error).__name__ != "MisconfigurationException":
        return None
    return UnfitError(f"Lightning rejects this module, data or trainer: {one_line(error)}")


_STEPS = ("training_step", "validation_step", "test_step")
_BY_MODEL = (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError)


def _of_model(error: BaseException) -> LrflowError | None:
    """Return the words for a plain network of the config that fails on a batch; None: it is another failure."""
    where = place_in_model(error)
    message = f"the model cannot process a batch of the data: {one_line(error)}\n    {where}"
    return UnfitError(message) if where else None


def place_in_model(error: BaseException) -> str | None:
    """Return the layer in which a plain network fails, and the shapes of the batch; None: it is another failure."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    steps = [frame for frame in frames if frame.f_code.co_name in _STEPS and _is_supervised(frame)]
    if not steps or not isinstance(error, _BY_MODEL):
        return None
    module, batch = steps[-1].f_locals["self"], steps[-1].f_locals.get("batch")
    names = {id(layer): name for name, layer in module.model.named_modules()}
    layers = [frame.f_locals.get("self") for frame in frames if frame.f_code.co_name == "forward"]
    inside = [layer for layer in layers if id(layer) in names]
    name = names[id(inside[-1])] if inside else ""
    where = (
        f"in its layer {name} ({type(inside[-1]).__name__})" if name else "in the model" if inside else "in its loss"
    )
    return f"{where}; the batch is {describe_batch(batch)}"


def _is_supervised(frame: FrameType) -> bool:
    return Path(frame.f_code.co_filename) == Path(lrflow.__file__).parent / "training" / "module.py"


def describe_batch(batch: Any) -> str:
    """Return the structure of a batch in words: its tensors' types and shapes."""
    if hasattr(batch, "shape") and hasattr(batch, "dtype"):
        return f"{str(batch.dtype).removeprefix('torch.')} {list(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{name}: {describe_batch(value)}" for name, value in batch.items()) + "}"
    if isinstance(batch, list | tuple):
        return ", ".join(map(describe_batch, batch)) if batch else "empty"
    return type(batch).__name__


def suspects(make: Callable[..., Any], arguments: Mapping[str, Any], message: str) -> list[str]:
    """Return the arguments that a message of a class or function most likely is about; empty: it does not show.

    Args:
        make: the class or function.
        arguments: what it was called with, by name.
        message: of the exception that it raised.
    """
    if name := first_named(arguments, message):
        return [name]
    shown = {name: _count_of(value, message) for name, value in arguments.items()}
    most = max(shown.values(), default=0)
    if most and list(shown.values()).count(most) == 1:
        return [name for name, count in shown.items() if count == most]
    wrong = [name for name, value in arguments.items() if not _fits(value, _annotation(make, name))]
    return wrong or list(arguments if len(arguments) == 1 else ())


def _count_of(value: Any, message: str) -> int:
    """Return how often a message shows a number or a text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    return len(re.findall(rf"(?<![\w.-]){re.escape(written(value))}(?![\w.])", message))


def _annotation(make: Callable[..., Any], name: str) -> Any:
    import inspect

    try:
        parameter = inspect.signature(make).parameters.get(name)
    except (TypeError, ValueError):
        return None
    return None if parameter is None else parameter.annotation


def _fits(value: Any, annotation: Any) -> bool:
    """Return whether a value is of the annotated type, a plain number or a switch; True for any other annotation."""
    kinds = {bool: bool, int: int, float: int | float}
    if annotation not in (bool, int, float):
        return True
    return isinstance(value, kinds[annotation]) and (annotation is bool or not isinstance(value, bool))


def _with_hint(message: str, hint: str) -> str:
    return f"{message}\n    {hint}" if hint else message


def _shortened(text: str) -> str:
    text = redact_text(text)
    return text if len(text) <= 120 else f"{text[:80]}...{text[-37:]}"
