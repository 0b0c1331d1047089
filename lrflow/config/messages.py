"""What pydantic says, as a person would."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from lrflow.config.spelling import closest, unknown_key
from lrflow.errors import Problem, did_you_mean

EXAMPLES = {
    "optimizer": "torch.optim.AdamW",
    "schedule": "lrflow.schedules.Schedule",
    "shape": "lrflow.schedules.Cosine",
    "feedback": "lrflow.feedback.Plateau",
    "model": "lrflow.models.MLP",
    "data": "lrflow.data.Digits",
}
"""By the last part of a key: what may be built there."""


def problem_of(
    details: ErrorDetails, content: dict[str, Any], schema: type[BaseModel] = BaseModel, groups: Collection[str] = ()
) -> Problem:
    """The problem that an error of pydantic's stands for.

    Args:
        details: the error.
        content: the whole config, in which an unknown key is looked for.
        schema: of the whole config.
        groups: the keys of the config that are chosen by an option.
    """
    key, value, context = dotted(details["loc"]), details["input"], details.get("ctx", {})
    match details["type"]:
        case "expected":
            return Problem(key, details["msg"], value)
        case "option":
            word = context["word"]
            close = closest(str(word), context["options"])
            return Problem(key, details["msg"], word, f"did you mean {close}?" if close else None)
        case "extra_forbidden":
            return unknown_key(key, value, content, schema, groups)
        case "missing":
            return _missing(key, content, groups)
        case "union_tag_invalid":
            return _no_such_kind(details["loc"], value, str(context["expected_tags"]))
        case "model_type" | "model_attributes_type" | "dict_type":
            if key.startswith("health.") and key.count(".") == 1:  # a monitor is a mapping, and this is none
                return unknown_key(key, value, content, schema, groups)
            return Problem(key, "expected a mapping of keys to values", value)
        case "list_type":
            return Problem(key, "expected a list", value)
        case "too_short":
            return Problem(key, "expected at least one entry", value)
    message = details["msg"]
    return Problem(key, message[:1].lower() + message[1:], value)


def dotted(location: Iterable[str | int]) -> str:
    """A location of pydantic's as it is typed on a command line; tags of unions, `<rules>`, are no part of it."""
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        elif not part.startswith("<"):
            key += f".{part}" if key else part
    return key


def _missing(key: str, content: Mapping[str, Any], groups: Collection[str]) -> Problem:
    group, _, name = key.rpartition(".")
    if group.startswith("optimizer.routes.") and name in ("_target_", "lr"):
        route, routes = group.removeprefix("optimizer.routes."), content["optimizer"]["routes"]
        if near := closest(route, [other for other in routes if other != route]):
            return Problem(group, "there is no such route", hint=f"did you mean optimizer.routes.{near}?")
    if name == "_target_" and group.startswith("health."):
        known = [monitor for monitor in content["health"] if f"health.{monitor}" != group]
        if near := closest(group.removeprefix("health."), known):
            return Problem(group, "there is no such monitor", hint=f"did you mean health.{near}?")
        return Problem(key, "is missing", hint="the dotted name of a lrflow.health.Monitor")
    if name == "_target_":
        example = EXAMPLES.get(group.rpartition(".")[2])
        such = f", such as {example}" if example else ""
        return Problem(key, "is missing", hint=f"the dotted name of what is to be built{such}")
    if not group and name in groups:
        return Problem(key, "the config has nothing of this group", hint=f"choose an option, {name}=...")
    return Problem(key, "is missing")


def _no_such_kind(location: tuple[str | int, ...], value: Any, tags: str) -> Problem:
    group = dotted(location)
    word = "name" if group == "task" else "kind"
    name = value.get(word) if isinstance(value, Mapping) else value
    known = [tag.strip("'<>") for tag in tags.split(", ")]
    return Problem(f"{group}.{word}", f"there is no such {group}", name, did_you_mean(str(name), known))
