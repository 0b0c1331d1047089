"""Checks of Hydra's own section: what it may build, log and set, and the settings of sweeper and launcher."""

from __future__ import annotations

import importlib.util
import os
import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override
from pydantic import ValidationError

from lrflow.config.checks.hydra_logging import check_logging
from lrflow.config.checks.launchers import VECTORIZED, check_built, check_settings
from lrflow.config.checks.written_paths import path_problem, stays_below, stays_inside
from lrflow.config.composition.interpolation import text_of
from lrflow.config.diagnostics import dotted
from lrflow.config.origins import is_typed
from lrflow.config.packages import missing_package
from lrflow.config.schemas.sweep import TARGET, Pruning, Sweep, is_storage
from lrflow.config.secrets import find_published_secrets, find_secrets
from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.metric import is_test
from lrflow.redaction import without_password


def check_sweeper(content: Mapping[str, Any]) -> list[Problem]:
    """Check the settings of the sweeper.

    Args:
        content: `hydra.sweeper` of a composed config; its interpolations are ignored.
    """
    settings = {key: value for key, value in content.items() if key != "_target_" and not _is_open(value)}
    try:
        sweep = Sweep.model_validate(settings)
    except ValidationError as error:
        return [_problem(details) for details in error.errors(include_url=False)]
    needed = {"optuna": True, "cmaes": sweep.sampler == "cmaes"}
    problems = [
        missing_package(package, "hydra/sweeper", "lrflow")
        for package, is_needed in needed.items()
        if is_needed and importlib.util.find_spec(package) is None
    ]
    several = len(sweep.metric) if isinstance(sweep.metric, list) else 1
    if isinstance(sweep.mode, list) and len(sweep.mode) not in (1, several):
        message = f"expected one mode, or one per metric of sweep.metric ({several})"
        problems.append(Problem("sweep.mode", message, sweep.mode))
    if several > 1 and sweep.pruner != "none":
        problems.append(
            Problem("sweep.pruner", "cannot prune trials with several objectives", sweep.pruner, "sweep.pruner=none")
        )
    if several > 1 and sweep.sampler == "cmaes":
        message = "supports only one objective"
        problems.append(Problem("sweep.sampler", message, sweep.sampler, "nsga2 and tpe support several"))
    if sweep.pruner != "none" and is_test(sweep.objectives[0].name):
        message = "pruning needs a validation metric"
        problems.append(Problem("sweep.metric", message, sweep.objectives[0].name, "such as val/loss"))
    if without_password(sweep.storage) != sweep.storage:
        message, hint = "contains a password in plain text", "put the URL into an environment variable: sweep.storage"
        problems.append(Problem("sweep.storage", message, sweep.storage, hint + "=${oc.env:NAME} (in quotes)"))
    if sweep.pruner == "race" and sweep.repeats == 1:
        problems.append(
            Problem("sweep.pruner", "compares the runs of trials, and each has one", "race", "sweep.repeats=5")
        )
    if sweep.storage == "memory" and sweep.pruner not in ("none", "race"):
        hint = "sweep.storage=journal"
        problems.append(Problem("sweep.storage", "pruning needs a storage that the jobs can open", "memory", hint))
    if sweep.storage == "memory" and sweep.resume:
        problems.append(
            Problem("sweep.storage", "a sweep in memory cannot be resumed", "memory", "sweep.storage=journal")
        )
    if sweep.pruning.rungs == "annealed" and sweep.pruner in ("patience", "wilcoxon"):
        message = "needs more rungs than sweep.pruning.rungs=annealed gives"
        problems.append(Problem("sweep.pruner", message, sweep.pruner, "use asha, median or hyperband"))
    return problems


def repeats_problems(repeats: int, swept: Iterable[str], seed: Any = 0) -> list[Problem]:
    """Return a problem if a sweep with several runs of a trial also sweeps over their seed, or seeds would run out."""
    if isinstance(seed, int) and repeats > 1 and seed < 2**32 < seed + repeats:
        message = f"has no {repeats - 1} seeds after it, which sweep.repeats={repeats} needs: the last is {2**32 - 1}"
        return [Problem("seed", message, seed)]
    if repeats == 1 or "seed" not in swept:
        return []
    message, hint = "repeats each trial with other seeds, and seed is swept too", "leave out one of the two"
    return [Problem("sweep.repeats", message, repeats, hint)]


def copied_variable_problem(error: KeyError) -> Problem:
    """Return the problem of a variable in `hydra.job.env_copy` that is not set, for which Hydra (1.3) raises KeyError.

    Raises:
        KeyError: the error is another one.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if frames[-1].f_code is not type(os.environ).__getitem__.__code__:
        raise error
    name = error.args[0]
    return Problem("hydra.job.env_copy", f"the environment variable {name} is not set", name, f"export {name}=...")


def nearest_setting(key: str) -> str | None:
    """Return a hint with the sweeper's setting nearest to an unknown key such as `hydra.sweeper.ntrials`, or None."""
    name, known = (
        key.removeprefix("hydra.sweeper."),
        [*Sweep.model_fields, *(f"pruning.{n}" for n in Pruning.model_fields)],
    )
    if name == key:
        return None
    close = nearest(name, known, count=1)
    return f"did you mean sweep.{close[0]}?" if close else f"sweep has {', '.join(known)}"


def _is_open(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _problem(details: Any) -> Problem:
    name = dotted(details["loc"])
    known = Pruning.model_fields if name.startswith("pruning.") else Sweep.model_fields
    if details["type"] == "extra_forbidden":
        return Problem(
            f"sweep.{name}", "there is no such key", details["input"], did_you_mean(name.rpartition(".")[2], known)
        )
    context = details.get("ctx", {})
    hint = did_you_mean(str(context["word"]), context["options"]) if details["type"] == "option" else None
    return Problem(f"sweep.{name}", details["msg"][:1].lower() + details["msg"][1:], details["input"], hint)


_ENVIRONMENT = re.compile(r"LRFLOW_.*|PYTHON.*|LD_.*|DYLD_.*|HYDRA_.*|PATH", re.IGNORECASE)
ENVIRONMENT = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "TOKENIZERS_PARALLELISM",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF", "NCCL_DEBUG", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "NCCL_SHM_DISABLE",
)  # fmt: skip
"""Environment variables that a file may set or copy; the command line may set most others."""

_RUNTIME = {("job", "num"): 0, ("job", "id"): "0", ("runtime", "output_dir"): "output"}
"""Keys that Hydra fills in when a job starts, each with a value that stands for it in the checks."""

_COMPOSED = ("overrides.", "runtime.", "job.override_dirname")
"""Keys that Hydra fills in when it composes a config."""

_FOLDERS = (("run", "dir"), ("sweep", "dir"), ("sweep", "subdir"))


def check_hydra(
    config: DictConfig, typed: Collection[str] = (), composed_of: Collection[str] | None = None
) -> list[Problem]:
    """Check Hydra's own section: known keys with values of known types, and from a file nothing that runs or escapes.

    Its values are checked after resolution. Whoever gives them, Hydra builds only its plugins and what the user
    trusts, and logs only to terminal and run folder. A file, as opposed to the command line, may also not set
    callbacks, most environment variables, the working directory, commands, servers, or paths outside the working
    directory.

    Args:
        config: whole composed config, with the section `hydra`.
        typed: keys that the command line sets.
        composed_of: overrides that it was composed of; None: they are not compared.
    """
    written: Any = OmegaConf.to_container(config.hydra, resolve=False)
    problems = [*_filled_in(written, composed_of), *find_secrets({"hydra": written})]
    with _started(config.hydra):
        content = _resolved(written, "hydra", config, problems)
        if not problems:
            problems += _check(content, written, config, typed)
    return problems


def _check(content: Any, written: Any, config: DictConfig, typed: Collection[str]) -> Iterator[Problem]:
    """Yield the problems of the resolved section."""

    def from_command_line(key: str) -> bool:
        return is_typed(key, typed)

    def resolve(text: str) -> Any:
        return text_of("hydra", text, config)

    yield from check_built(content, from_command_line)
    for group in ("job_logging", "hydra_logging"):
        yield from check_logging(content[group], written[group], f"hydra.{group}", from_command_line)
    yield from _job(content["job"], from_command_line)
    for above, name in _FOLDERS:
        key = f"hydra.{above}.{name}"
        if not from_command_line(key) and not stays_below(str(written[above][name]), resolve):
            yield path_problem(key, written[above][name])
    named = {"run": content["run"], "sweep": content["sweep"], "job": {"name": content["job"]["name"]}}
    yield from find_published_secrets({"hydra": named})
    subdir = content["output_subdir"]
    if subdir is not None and not from_command_line("hydra.output_subdir") and not re.fullmatch(r"\.hydra\w*", subdir):
        yield Problem("hydra.output_subdir", "a file may give only .hydra or null", subdir)
    if content["mode"] is not None:
        yield Problem("hydra.mode", "cannot be set; -m starts a sweep", config.hydra.mode.name)
    verbose = content["verbose"]
    if not (isinstance(verbose, bool | str) or (isinstance(verbose, list) and all(map(_is_name, verbose)))):
        yield Problem("hydra.verbose", "expected true, false, or names of loggers", verbose)
    for group in ("launcher", "sweeper"):
        if not isinstance(content[group], dict) or not isinstance(content[group].get("_target_"), str):
            yield Problem(f"hydra.{group}", "expected one of its options", content[group])
            return
    launcher, sweeper = content["launcher"], content["sweeper"]
    if launcher["_target_"] == VECTORIZED:
        yield from _check_vectorized(launcher)
    else:
        yield from check_settings("launcher", launcher, written["launcher"], from_command_line, resolve)
    if sweeper["_target_"] == TARGET:
        yield from _lrflow_sweeper(sweeper, written["sweeper"], from_command_line)
        return
    if sweeper.get("params") and str(sweeper["_target_"]).endswith(".BasicSweeper"):
        message = "give the swept values on the command line, such as optimizer.lr=0.1,0.01"
        yield Problem("hydra.sweeper.params", message, sweeper["params"])
    yield from check_settings("sweeper", sweeper, written["sweeper"], from_command_line, resolve)


def _filled_in(written: Any, composed_of: Collection[str] | None) -> Iterator[Problem]:
    """Yield a problem for each value that Hydra itself sets and a file has set."""
    for above, name in _RUNTIME:
        if written[above][name] != "???":
            yield Problem(f"hydra.{above}.{name}", "only Hydra sets this", written[above][name], "leave it out")
    for kind in ("hydra", "task"):
        for text in written["overrides"][kind]:
            if composed_of is not None and text not in composed_of:
                yield Problem(f"hydra.overrides.{kind}", "only the command line gives overrides", text, "leave it out")


@contextmanager
def _started(node: DictConfig) -> Iterator[None]:
    """Give the keys that Hydra fills in when a job starts a value within the block, so that others can be resolved."""
    with flag_override(node, ["readonly", "struct"], False):
        before = {place: node[place[0]]._get_node(place[1])._value() for place in _RUNTIME}
        for (above, name), value in _RUNTIME.items():
            node[above][name] = value
        try:
            yield
        finally:
            for (above, name), value in before.items():
                node[above][name] = value


def _resolved(value: Any, key: str, config: DictConfig, problems: list[Problem]) -> Any:
    """Return a part of the section with its interpolations replaced; their problems are added to `problems`."""
    if isinstance(value, dict):
        return {name: _resolved(item, f"{key}.{name}", config, problems) for name, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, f"{key}[{index}]", config, problems) for index, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value or key.removeprefix("hydra.").startswith(_COMPOSED):
        return value
    try:
        return text_of(key, value, config)
    except ConfigError as error:
        problems += error.problems
        return None


def _job(job: Any, from_command_line: Callable[[str], bool]) -> Iterator[Problem]:
    """Yield a problem for each setting of `hydra.job` that a config, or a file, may not give."""
    # Hydra adds the variables of `env_copy` to `env_set` when it composes a config.
    copied = set(job["env_copy"]) if from_command_line("hydra.job.env_copy") else set()
    for name, value in job["env_set"].items():
        key = f"hydra.job.env_set.{name}"
        if _ENVIRONMENT.fullmatch(str(name)):
            yield Problem(key, "a config may not set this environment variable", value)
        elif name not in ENVIRONMENT and name not in copied and not from_command_line(key):
            yield Problem(key, "a file may not set this environment variable", value, "give it on the command line")
        elif not isinstance(value, str | int | float) or not str(value).isprintable():
            yield Problem(key, "expected a text of one line", value)
        elif not re.fullmatch(r"[\w.,:+>\[\]-]*", str(value)) and name not in copied and not from_command_line(key):
            yield Problem(key, "a file may give only a number or a word here", value, "give it on the command line")
    if job["chdir"] and not from_command_line("hydra.job.chdir"):
        yield Problem(
            "hydra.job.chdir", "a file may not change the working directory", True, "give it on the command line"
        )
    if not from_command_line("hydra.job.name") and not re.fullmatch(r"\w[\w.+=,@ -]*", str(job["name"])):
        yield Problem("hydra.job.name", "expected letters, digits, spaces and . , _ - + = @", job["name"])


def _lrflow_sweeper(sweeper: Any, written: Any, from_command_line: Callable[[str], bool]) -> Iterator[Problem]:
    """Yield a problem for each wrong setting of lrflow's sweeper, and for each that only the command line may give."""
    if _is_open(written["storage"]):  # from a variable it may hold a password
        yield from check_sweeper({**sweeper, "storage": "journal"})
        if not is_storage(sweeper["storage"]):
            yield Problem("sweep.storage", "expected memory, journal or the URL of a database", written["storage"])
    else:
        yield from check_sweeper(sweeper)
    if sweeper["resume"] is not None and not from_command_line("hydra.sweeper.resume"):
        yield Problem("sweep.resume", "a file may not resume a sweep", sweeper["resume"], "give it on the command line")
    storage = str(written["storage"])
    is_variable = re.fullmatch(r"\$\{\s*oc\.env\s*:\s*\w+\s*\}", storage)
    if from_command_line("hydra.sweeper.storage") or storage in ("journal", "memory") or is_variable:
        return
    path = re.fullmatch(r"sqlite:///([^?#]+)", str(sweeper["storage"]))
    if not path or not stays_inside(path[1]):
        hint = "sqlite:///NAME.db, or sweep.storage=... on the command line; ${oc.env:NAME} takes it from a variable"
        yield Problem("sweep.storage", "a file may not give a server or another folder", storage, hint)


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _check_vectorized(launcher: Any) -> Iterator[Problem]:
    """Check the settings of the vectorised launcher."""
    size, measure = launcher["size"], launcher["measure"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 2:
        yield Problem("hydra.launcher.size", "expected a whole number of at least 2: jobs that train together", size)
    if not isinstance(measure, bool):
        yield Problem("hydra.launcher.measure", "expected true or false", measure)
    for name in launcher.keys() - {"_target_", "size", "measure"}:
        yield Problem(f"hydra.launcher.{name}", "there is no such key", launcher[name])
