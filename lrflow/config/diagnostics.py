"""Turns pydantic's errors into problems, with suggestions for misspelt keys and for keys of other frameworks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from lrflow.config.composition.interpolation import leaves
from lrflow.config.composition.options import home
from lrflow.config.origins import split_key
from lrflow.errors import Problem, UnknownProblem, did_you_mean, nearest

SYNONYMS = {
    "learning_rate": "lr",
    "max_lr": "lr",
    "wd": "weight_decay",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "epoch": "max_epochs",
    "steps": "max_steps",
    "bs": "batch_size",
    "optim": "optimizer",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "warmup_steps": "warmup",
    "num_warmup_steps": "warmup",
    "min_lr": "floor",
    "eta_min": "floor",
    "grad_clip": "gradient_clip_val",
    "accumulate": "accumulate_grad_batches",
    "gpus": "devices",
    "workers": "num_workers",
    "dataset": "data",
}
"""Names in other frameworks, and their names in lrflow."""

_NAMES = "name=... names the run, on dashboards too"

ANSWERS = {
    r"(?:.*\.)?logger\.(?:wandb|tensorboard|mlflow|trackio|comet)\.(?:run_)?name|(?:logger|trainer)\.name": _NAMES,
    r"(?:logger\.)?(tags|project|entity|group)": "did you mean logger.wandb.{0}? It needs logger=wandb",
    r"(?:logger\.)?(tracking_uri|experiment)(?:_name)?": "did you mean logger.mlflow.{0}? It needs logger=mlflow",
    r"logger\._target_": "each logger has a name: logger=custom logger.custom._target_=my_pkg.Log trust=my_pkg",
    r"(.*schedule)\.warmup_(?:ratio|fraction|pct)": "a warmup can be a share of the run: {0}.warmup={share}",
    r"(.*schedule)\.warmup_epochs": "a warmup can be in epochs: {0}.warmup='{value} epochs'",
    r"(?:data|trainer)\.(num_workers|pin_memory|prefetch_factor|persistent_workers)": "did you mean data.loader.{0}?",
    r"(?:task\.)?(?:run|run_dir|ckpt|ckpt_path|checkpoint|checkpoint_path)": "task.from=RUN or resume=RUN name a run",
    r"(?:model\.|trainer\.)?label_smoothing": "did you mean model.loss.label_smoothing?",
    r"data\.augment(?:\..+)?": "augment=flip_crop mirrors and shifts images",
    r"trainer\.callbacks?|callback": "callbacks=timer, or callbacks.NAME._target_=my_pkg.Watch trust=my_pkg",
}
"""Keys of other frameworks without a counterpart of a similar name, and what to do instead."""


def answer(key: str, value: Any) -> str | None:
    """Return what to do instead of using a key of another framework; None if the key is not in `ANSWERS`."""
    for pattern, text in ANSWERS.items():
        if match := re.fullmatch(pattern, key):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            share = f"{100 * value:g}%" if number and 0 < value < 1 else "10%"
            return text.format(*match.groups(), share=share, value=f"{value:g}" if number else 3)
    return None


def answered(problem: Problem, content: Mapping[str, Any]) -> Problem:
    """Return the problem with the answer for its key as its hint, or the key in the config that was most likely meant.

    Args:
        problem: problem of a key.
        content: whole config.
    """
    hint = answer(problem.key, problem.value)
    if hint is None and isinstance(problem, UnknownProblem):
        parent, _, name = problem.key.rpartition(".")
        close = closest(name, problem.known) or next(iter(nearest(name, problem.known)), None)
        meant = f"{parent}.{close}" if close else _elsewhere(problem.key, content)
        hint = f"did you mean {meant}?" if meant else None
    return replace(problem, hint=hint or problem.hint)


_SIMILAR, _ALMOST = 0.75, 0.85
"""Share of letters in which a misspelt name agrees with one of its own section, and with one of another section."""


def closest(word: str, known: Iterable[str], share: float = _SIMILAR) -> str | None:
    """Return the known name that a misspelt one most likely stands for, or None if none is close enough.

    Args:
        word: misspelt name.
        known: names that exist.
        share: of their letters in which the two have to agree.
    """
    known, meant = list(known), SYNONYMS.get(word, word)
    if meant in known:
        return meant
    close = difflib.get_close_matches(word, known, n=1, cutoff=share)
    close = close or [name for name in known if sorted(name) == sorted(word)]  # two letters of a short word, swapped
    return close[0] if close else None


def unknown_key(
    key: str, value: Any, content: dict[str, Any], schema: type[BaseModel], groups: Collection[str]
) -> Problem:
    """Return the problem of an unknown key, with the nearest known key as hint.

    Args:
        key: dotted key as given.
        value: value of the key.
        content: whole config; its other keys are suggested too.
        schema: schema of the whole config.
        groups: groups of the config.
    """
    parent, _, name = key.rpartition(".")
    if key == "trust":
        hint = "trust=my_pkg on the command line, or [tool.lrflow] trust in ./pyproject.toml"
        return Problem(key, "cannot be set in a config, since a config must not extend what it may run", value, hint)
    if key == "recipe":
        return Problem(key, "this group has no keys", hint="start the recipe with the line # @package _global_")
    if parent == "feedback" and "_target_" not in content.get(parent, {}):
        return Problem(key, "has no effect without feedback", value, "choose one, such as feedback=plateau")
    if parent == "clip" and "_target_" not in content.get(parent, {}):
        return Problem(key, "has no effect without a guard", value, "choose one, such as clip=norm")
    if instead := answer(key, value):
        return Problem(key, "there is no such key" if parent else "there is no such group or key", value, instead)
    if others := _options_with(name, parent, content.get(parent), schema):
        return Problem(key, "there is no such key", value, held_by(others))
    sections = [section for section in sections_at(parent, schema) if _is_chosen(section, content.get(parent))]
    known = list(dict.fromkeys(other for section in sections for other in names_of(section) if other != name))
    message = "there is no such key" if parent else "there is no such group or key"
    if close := closest(name, known):
        return Problem(key, message, value, f"did you mean {f'{parent}.{close}' if parent else close}?")
    if elsewhere := _elsewhere(key, content):
        return Problem(key, message, value, f"did you mean {elsewhere}?")
    if parent:
        own = f"; a monitor of your own is named by {key}._target_" if parent == "health" else ""
        return Problem(key, message, value, f"{parent} has {', '.join(known)}{own}" if known else None)
    return Problem(key, message, value, f"the groups are {', '.join(groups)}")


def held_by(options: Sequence[str]) -> str:
    """Return a hint that these options, at least one, have the key: `optimizer=lars and optimizer=sgd have it`."""
    few = " and ".join(options) if len(options) < 4 else f"{', '.join(options[:3])} and {len(options) - 3} more"
    return f"{few} {'has' if len(options) == 1 else 'have'} it"


def _options_with(name: str, group: str, given: Any, schema: type[BaseModel]) -> list[str]:
    """Return the options of a group, each as it is chosen, that have a key which the chosen one has not.

    Args:
        name: key in the group.
        group: such as `average` or `task`, whose options differ in a word.
        given: content of the group.
        schema: schema of the whole config.
    """
    found, chosen = [], given if isinstance(given, Mapping) else {}
    for section in sections_at(group, schema) if group else []:
        words = [name for name in ("kind", "name") if get_origin(_annotation(section, name)) is Literal]
        for field in words[:1]:
            (word,) = get_args(_annotation(section, field))
            if name in names_of(section) and chosen.get(field) != word:
                found.append(f"{group}={word}")
    return found


def _annotation(section: type[BaseModel], name: str) -> Any:
    return section.model_fields[name].annotation if name in section.model_fields else None


def names_of(section: type[BaseModel]) -> list[str]:
    """Return the keys of a section as written in a config."""
    return [field.alias or name for name, field in section.model_fields.items()]


def sections_at(key: str, schema: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the section schemas valid at a key such as `layers.rules[0].schedule`; empty if there are none."""
    annotations: list[Any] = [schema]
    for part in split_key(key):
        annotations = [below for annotation in annotations for below in _below(annotation, part)]
    return [kind for annotation in annotations for kind in _kinds(annotation) if _is_section(kind)]


def _is_chosen(section: type[BaseModel], given: Any) -> bool:
    """Return whether the content of a key is for this section, of all that the key can have: `task` has one by name."""
    if not isinstance(given, Mapping):
        return True
    kinds = {name: get_args(field.annotation) for name, field in section.model_fields.items() if field.is_required()}
    return all(
        given.get(name) in words
        for name, words in kinds.items()
        if get_origin(section.model_fields[name].annotation) is Literal
    )


def _below(annotation: Any, part: str | int) -> Iterator[Any]:
    """Yield the annotations at one part of a key, below a schema, list or mapping."""
    for kind in _kinds(annotation):
        if _is_section(kind):
            for name, field in kind.model_fields.items():
                if part == (field.alias or name):
                    yield field.annotation
        elif get_origin(kind) in (list, dict):
            yield get_args(kind)[-1]


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, or the type itself, without `Annotated`."""
    if get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _kinds(member)
    else:
        yield annotation


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


_NOT_MEANT = ("data.facts.", "resume.", "trial.")
"""Sections whose keys nobody means who typed the key of another one."""


def _elsewhere(unknown: str, content: Mapping[str, Any]) -> str | None:
    """Return a key elsewhere in the config with the same or almost the same last part, or None."""
    keys = [
        key
        for key, _ in leaves(content)
        if "." in key and "[" not in key and not key.startswith(_NOT_MEANT) and key != unknown
    ]
    name = unknown.rpartition(".")[2]
    by_name = {key.rpartition(".")[2]: key for key in reversed(keys) if not key.endswith("_")}
    close = closest(name, by_name, _ALMOST)
    return by_name[close] if close else None


EXAMPLES = {
    "optimizer": "torch.optim.AdamW",
    "schedule": "lrflow.schedules.Schedule",
    "shape": "lrflow.schedules.Cosine",
    "feedback": "lrflow.feedback.Plateau",
    "clip": "lrflow.clip.Norm",
    "model": "lrflow.models.MLP",
    "data": "lrflow.data.Digits",
}
"""Example of a `_target_`, by the last part of its key."""


def problem_of(
    details: ErrorDetails, content: dict[str, Any], schema: type[BaseModel] = BaseModel, groups: Collection[str] = ()
) -> Problem:
    """Return the problem for an error of pydantic.

    Args:
        details: the error.
        content: whole config; its keys are suggested for an unknown one.
        schema: schema of the whole config.
        groups: groups of the config.
    """
    key, value, context = dotted(details["loc"]), details["input"], details.get("ctx", {})
    match details["type"]:
        case "expected":
            return Problem(key, details["msg"], value, _how_to_write(key, value, str(context["sentence"]), content))
        case "option":
            word = context["word"]
            close = closest(str(word), context["options"])
            return Problem(key, details["msg"], word, f"did you mean {close}?" if close else None)
        case "extra_forbidden":
            return unknown_key(key, value, content, schema, groups)
        case "missing":
            return _missing(key, content, schema, groups)
        case "union_tag_invalid":
            return _no_such_kind(details["loc"], value, str(context["expected_tags"]))
        case "model_type" | "model_attributes_type" | "dict_type":
            monitors = [name for section in sections_at("health", schema) for name in names_of(section)]
            if key.startswith("health.") and key.count(".") == 1 and key.removeprefix("health.") not in monitors:
                return unknown_key(key, value, content, schema, groups)
            if key.startswith("logger.") and key.count(".") == 1:
                return _unknown_logger(key, value, schema)
            return Problem(key, "expected a mapping of keys to values", value)
        case "list_type":
            return Problem(key, "expected a list", value)
        case "too_short":
            return Problem(key, "expected at least one entry", value)
    message = details["msg"]
    return Problem(key, message[:1].lower() + message[1:], value)


def _how_to_write(key: str, value: Any, expected: str, content: Mapping[str, Any]) -> str | None:
    """Return how to write a value that is of another type than its key expects, or None."""
    number = _number_at_start(value) if isinstance(value, str) else None
    if number is not None and 0 < number < 1 and expected.endswith("an LR, such as 1e-6 lr"):
        return f"for an LR of {number:g} write '{number:g} lr'"
    if number is not None and expected.startswith("a fraction of the peak"):
        peak = (content.get("optimizer") or {}).get("lr")
        if isinstance(peak, int | float) and not isinstance(peak, bool) and 0 < number < peak:
            return f"for an LR of {number:g} write {number / peak:g}, which is {number:g} over optimizer.lr"
    if number is not None and "number" in expected and re.fullmatch(r"[\d.+e-]+", value.strip(), re.IGNORECASE):
        plain = int(value) if value.strip().lstrip("+-").isdigit() else value.strip()
        return f"it is text: write {plain} without quotes"
    if isinstance(value, float) and value.is_integer() and "whole number" in expected and abs(value) < 1e18:
        return f"write {int(value)}"
    if expected.startswith(("text", "a name")) and isinstance(value, int | float) and not isinstance(value, bool):
        return f"""text needs quotes here: '{key}="{value}"'"""
    return None


def _number_at_start(text: str) -> float | None:
    found = re.match(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?![\w.%])", text, re.IGNORECASE)
    return float(found.group(1)) if found else None


def dotted(location: Iterable[str | int]) -> str:
    """Return a location of pydantic as a dotted key, without tags of unions such as `<rules>`."""
    key = ""
    for part in untagged(location):
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


_TAG = re.compile(r"<[a-z_]+>")


def untagged(location: Iterable[str | int]) -> list[str | int]:
    """Return a location of pydantic without the tags of unions, such as `<rules>`, which are never its first part."""
    parts = list(location)
    return [part for at, part in enumerate(parts) if not (at and isinstance(part, str) and _TAG.fullmatch(part))]


def _missing(key: str, content: Mapping[str, Any], schema: type[BaseModel], groups: Collection[str]) -> Problem:
    group, _, name = key.rpartition(".")
    if group.startswith("optimizer.routes.") and name in ("_target_", "lr"):
        route, routes = group.removeprefix("optimizer.routes."), content["optimizer"]["routes"]
        if near := closest(route, [other for other in routes if other != route]):
            return Problem(group, "there is no such route", hint=f"did you mean optimizer.routes.{near}?")
    if name == "_target_" and group.startswith("health."):
        known = [monitor for monitor in content["health"] if f"health.{monitor}" != group]
        if near := closest(group.removeprefix("health."), known):
            return Problem(group, "there is no such monitor", hint=f"did you mean health.{near}?")
        return Problem(key, "is missing", hint="give the dotted name of a lrflow.health.Monitor")
    if name == "_target_" and group.startswith("logger.") and group != "logger.custom":
        return _unknown_logger(group, ..., schema)
    if name == "_target_" and group.startswith(("callbacks.", "augment.")):
        return Problem(key, "is missing", hint=_how_to_name(*group.split(".", 1)))
    if name == "_target_":
        example = EXAMPLES.get(group.rpartition(".")[2])
        such = f", such as {example}" if example else ""
        return Problem(key, "is missing", hint=f"give the dotted name of a class or function{such}")
    if not group and name in groups:
        return Problem(key, "the config has no option of this group", hint=f"choose an option: {name}=...")
    return Problem(key, "is missing")


def _unknown_logger(key: str, value: Any, schema: type[BaseModel]) -> Problem:
    """Return the problem of a logger that lrflow does not have and that names no `_target_`."""
    name = key.removeprefix("logger.")
    known = [other for section in sections_at("logger", schema) for other in names_of(section)]
    if name in known:
        return Problem(key, "expected a mapping of keys to values", value)
    if near := closest(name, known):
        return Problem(key, "there is no such logger", value, f"did you mean logger.{near}?")
    if instead := answer(key, value):
        return Problem(key, "there is no such key", value, instead)
    hint = f"the loggers are {', '.join(known)}; of any other, give {key}._target_"
    return Problem(key, "there is no such logger", value, hint)


def _no_such_kind(location: tuple[str | int, ...], value: Any, tags: str) -> Problem:
    group = dotted(location)
    word = "name" if group == "task" else "kind"
    name = value.get(word) if isinstance(value, Mapping) else value
    known = [tag.strip("'<>") for tag in tags.split(", ")]
    return Problem(f"{group}.{word}", f"there is no such {group}", name, did_you_mean(str(name), known))


def _how_to_name(group: str, name: str) -> str:
    """Return what to do about a callback or augmentation without a `_target_`: choose the option of its name."""
    what, example = {
        "callbacks": ("a Lightning callback", "pytorch_lightning.callbacks.Timer"),
        "augment": ("an augmentation", "lrflow.augment.MixUp"),
    }[group]
    if (home("conf") / group / f"{name}.yaml").is_file():
        return f"add {group}={name}, or give the dotted name of {what}"
    return f"give the dotted name of {what}, such as {example}"
