"""JSON schemas of field types: of the annotations of a section's fields, with interpolations allowed everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Discriminator, Tag

from lrflow.config.schemas.field_checks import BeforeValidator, Json, any_of
from lrflow.schedules import Duration

INTERPOLATION = {"$ref": "#/definitions/interpolation"}

DEFINITIONS: dict[str, Any] = {
    "interpolation": {
        "description": "${key} stands for the value of a key, ${calc:0.4 / ${key}} for a result; ??? has to be given.",
        "type": "string",
        "pattern": r"\$\{|^\?\?\?$|^[+-]?\d+(_\d+)+$",  # 50_000 is a number in YAML 1.1, and text in editors' YAML 1.2
    }
}
"""The definitions to which these schemas refer."""

_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", list: "array"}


class Member:
    """A member of a union: its type, without `Annotated`, and the metadata of it.

    Args:
        kind: the annotation.
        metadata: of an `Annotated` around it.
    """

    def __init__(self, kind: Any, metadata: Iterable[Any] = ()) -> None:
        while get_origin(kind) is Annotated:
            kind, *inner = get_args(kind)
            metadata = (*inner, *metadata)
        self.kind, self.metadata = kind, tuple(metadata)

    @property
    def members(self) -> list[Member]:
        """The members of a union, or itself."""
        if get_origin(self.kind) in (Union, UnionType):
            return [inner for each in get_args(self.kind) for inner in Member(each).members]
        return [self]

    def members_of(self, value: Any) -> list[Member]:
        """Return the members of which a value may be, by the discriminator of the union if it has one."""
        if get_origin(self.kind) not in (Union, UnionType):
            return [self]
        inner = [Member(each) for each in get_args(self.kind)]
        for each in self.metadata:
            if isinstance(each, Discriminator) and callable(each.discriminator):
                tag = each.discriminator(value)
                tagged = [m for m in inner if any(isinstance(t, Tag) and t.tag == tag for t in m.metadata)]
                inner = tagged or inner
        return [member for each in inner for member in each.members_of(value)]

    @property
    def section(self) -> type[BaseModel] | None:
        """The section that it is; None: it is a value."""
        return self.kind if isinstance(self.kind, type) and issubclass(self.kind, BaseModel) else None

    @property
    def checked(self) -> dict[str, Any] | None:
        """The JSON schema that a check in its metadata has; None: there is none."""
        checks = (each for each in self.metadata if isinstance(each, BeforeValidator | Json))
        own = (dict(each.json) for each in checks if each.json is not None and not getattr(each, "beside", False))
        return next(own, None)

    @property
    def beside(self) -> list[dict[str, Any]]:
        """JSON schemas of its further forms."""
        return [dict(each.json) for each in self.metadata if isinstance(each, Json) and each.beside]


def fields_of(section: type[BaseModel]) -> Iterator[tuple[str, str, Member, Any]]:
    """Yield key, attribute, type and default of each field of a section; a default of `...` is none."""
    for name, field in section.model_fields.items():
        discriminator = [field.discriminator] if isinstance(field.discriminator, Discriminator) else []
        default = ... if field.is_required() or field.default_factory else field.default
        yield field.alias or name, name, Member(field.annotation, [*field.metadata, *discriminator]), default


def tag_of(section: type[BaseModel]) -> tuple[str, str] | None:
    """Return the field that says which of several sections it is, and its word; None: there is no such field."""
    for key, _, member, _ in fields_of(section):
        if get_origin(member.kind) is Literal and section.model_fields[key].is_required():
            return key, get_args(member.kind)[0]
    return None


@cache
def rest_of(section: type[BaseModel]) -> Member | None:
    """Return the type of the keys that a section takes besides its fields; None: it has none, or they have no type."""
    own = get_type_hints(section, include_extras=True).get("__pydantic_extra__")
    inner = get_args(own)[1] if get_origin(own) is dict else Any
    return None if inner is Any else Member(inner)


def plain_type(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a type without sections in it; empty: any value."""
    if get_origin(kind) is Literal:
        return {"enum": [*get_args(kind)]}
    if kind in (None, type(None)):
        return {"type": "null"}
    name = _PLAIN.get(get_origin(kind) or kind)
    return {"type": name} if name else {}


def opened(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON schema that also allows an interpolation, in place of the whole and of each part."""
    if not schema or schema == INTERPOLATION:
        return dict(schema)
    if {*schema} == {"anyOf"}:
        forms = [form for each in schema["anyOf"] for form in opened(each).get("anyOf", [each])]
    else:
        inner = {key: opened(schema[key]) for key in ("items", "additionalProperties") if _is_schema(schema.get(key))}
        forms = [{**schema, **inner}]
    distinct = [form for at, form in enumerate(forms) if form != INTERPOLATION and form not in forms[:at]]
    return any_of(*distinct, INTERPOLATION)


def _is_schema(value: Any) -> bool:
    return isinstance(value, Mapping)


def as_json(value: Any) -> Any:
    """Return a default as a config gives it; `...` where JSON has no such value."""
    if isinstance(value, Duration):
        return str(value) if value.written is None else value.written
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, list):
        return [as_json(item) for item in value] if all(as_json(item) is not ... for item in value) else ...
    if isinstance(value, str) and ("${" in value or value == "???"):
        return ...
    is_finite = not isinstance(value, float) or abs(value) < float("inf")
    return value if value is None or (isinstance(value, bool | int | float | str) and is_finite) else ...
