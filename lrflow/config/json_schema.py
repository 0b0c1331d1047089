"""The JSON schema of configs, recipes and option files, for editors: made of schemas, option files and signatures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from inspect import Parameter
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from lrflow.clip.limits import LIMITS as CLIP_LIMITS
from lrflow.config.annotations import NODE, Annotation, limit_of
from lrflow.config.checks.nodes import PASSED
from lrflow.config.composition.option_files import Use, read_option, uses_in
from lrflow.config.composition.options import (
    ACROSS_GROUPS,
    COMBINED,
    OF_RECIPES,
    Catalogue,
    Option,
    definition_of,
    shipped_files,
)
from lrflow.config.config import Config
from lrflow.config.json_types import (
    DEFINITIONS,
    INTERPOLATION,
    Member,
    as_json,
    fields_of,
    opened,
    plain_type,
    rest_of,
    tag_of,
)
from lrflow.config.schemas.detector_limits import LIMITS as DETECTOR_LIMITS
from lrflow.config.schemas.field_checks import any_of
from lrflow.config.schemas.objects import Node
from lrflow.config.schemas.ranges import field_of
from lrflow.config.schemas.sweep import SWEEP_RECORD, Sweep, SweepRecord
from lrflow.config.schemas.types import INTERVAL
from lrflow.config.signatures import attributes_in_source, docstring_in_source, named_in_source
from lrflow.config.targets import CONTROLS
from lrflow.config.validation import META
from lrflow.feedback.limits import BOUNDS, LIMITS
from lrflow.optimizers.traits import Traits, traits_named

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The version of JSON schema that all versions of the YAML language server read."""


def json_schema(catalogue: Catalogue) -> dict[str, Any]:
    """Return the JSON schema of a config or a recipe; below `definitions` is one of the option files of each group.

    Keys that a file leaves out are no error, since the files of a config complete each other. The arguments of a node
    are those of its `_target_`; without one, those of all targets in its group's options.

    Args:
        catalogue: options, whose names, keys and comments are in it.
    """
    return _Builder(catalogue).whole()


def schema_text(catalogue: Catalogue) -> str:
    """Return the schema as a file with a line for each definition.

    Args:
        catalogue: see `json_schema`.
    """
    schema = json_schema(catalogue)
    definitions = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(form)}" for name, form in schema.pop("definitions").items()
    )
    return f'{json.dumps(schema)[:-1]},\n "definitions": {{\n{definitions}\n }}\n}}\n'


class _Builder:
    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.definitions: dict[str, Any] = dict(DEFINITIONS)
        self.groups = {key: member for key, _, member, _ in fields_of(Config) if key in Config.groups}
        self.uses: dict[type[BaseModel], dict[str, list[Use]]] = {}
        sections = ((each.section, key) for key, member in self.groups.items() for each in member.members)
        self.of_groups = {section: key for section, key in sections if section}
        self.group_of = dict(self.of_groups)
        of_recipes = (item for item in shipped_files().items() if item[0].startswith(OF_RECIPES))
        own = [Option("recipe", name, path) for name, path in of_recipes]
        for option in [*sorted(catalogue.every(), key=lambda option: option.group in ACROSS_GROUPS), *own]:
            across = option.group in ACROSS_GROUPS
            described = Member(Config) if across else self.groups.get(option.group)
            for use in uses_in(option, described) if described else ():
                self.group_of.setdefault(use.section, str(use.place[0]) if across else option.group)
                self.uses.setdefault(use.section, {}).setdefault(use.target, []).append(use)

    def whole(self) -> dict[str, Any]:
        """Return the whole schema."""
        self._add_defaults()
        properties: dict[str, Any] = {}
        for key, form, text, default in self._fields(Config):
            if key in self.groups:  # its list of defaults stands at the root
                form = any_of({"allOf": [form], "properties": {"defaults": False}}, INTERPOLATION)
                nullable = {"type": "null"}
                inner = {"allOf": [self._form(self.groups[key])], "properties": {"defaults": _ref("defaults")}}
                self.definitions[definition_of(key)] = _root(f"lrflow: an option of {key}", any_of(nullable, inner))
            properties[key] = _property(form, text, default)
        properties["defaults"] = _ref("defaults")
        properties["hydra"] = {"type": "object", "description": "Settings of Hydra: sweeper, launcher, job."}
        properties[META] = {"type": "object", "description": "What this config was composed of; lrflow writes it."}
        sweeper = self._form(Member(Sweep))
        self.definitions[SWEEP_RECORD] = _root("lrflow: a sweep", self._form(Member(SweepRecord)))
        choice = "override /hydra/sweeper"
        chosen = {"properties": {choice: {"const": "lrflow"}}, "required": [choice]}
        self.definitions["config"] = {
            "type": ["object", "null"],
            "properties": properties,
            "additionalProperties": False,
            "if": {"properties": {"defaults": {"contains": chosen}}, "required": ["defaults"]},
            "then": {"properties": {"hydra": {"properties": {"sweeper": sweeper}}}},
        }
        root = _root("lrflow: a config or a recipe", _ref("config"))
        return {"$schema": DRAFT, **root, "definitions": dict(sorted(self.definitions.items()))}

    def _add_defaults(self) -> None:
        """Add the definition of a list of defaults: groups, and the names of their options."""
        options: dict[str, list[str]] = {}
        for option in self.catalogue.every():
            options.setdefault(option.group, []).append(option.name)
        named: dict[str, Any] = {}
        for group, names in options.items():
            one = any_of({"enum": sorted(names)}, {"type": "null"}, INTERPOLATION)
            several = {"type": "array", "items": {"enum": sorted(names)}}
            self.definitions[f"{group}-options"] = any_of(*one["anyOf"], several) if group in COMBINED else one
            named[f"override /{group}"] = named[f"/{group}"] = named[group] = _ref(f"{group}-options")
        within = {re.escape(name) for group in options for name in (group, group.rpartition("/")[2])}
        groups = "|".join(sorted({*within, "hydra/.+", f"{OF_RECIPES}.+"}))
        at = {f"^(optional |override )*/?{re.escape(group)}@.*$": _ref(f"{group}-options") for group in options}
        self.definitions["defaults"] = {
            "description": "Options that this file builds on: `- override /optimizer: sgd`; _self_ is this file.",
            "type": "array",
            "items": any_of(
                {"type": "string"},
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": named,
                    "patternProperties": at,
                    "propertyNames": {"pattern": f"^(optional |override )*/?({groups})(@.*)?$"},
                },
            ),
        }

    def _fields(self, section: type[BaseModel]) -> Iterator[tuple[str, dict[str, Any], str | None, Any]]:
        """Yield key, schema, text and default of each field."""
        texts = attributes_in_source(section)
        for key, name, member, default in fields_of(section):
            text = texts.get(name) or (self._summary(member) if key in self.groups else None)
            yield key, self._form(member), text, as_json(default)

    def _summary(self, member: Member) -> str:
        first = next(each.section for each in member.members if each.section)
        return _first_line(first)

    def _form(self, member: Member) -> dict[str, Any]:
        """Return the schema of a type, without interpolations in place of the whole."""
        if (checked := member.checked) is not None:
            return any_of(checked, *member.beside) if member.beside else checked
        members = member.members
        if len(members) > 1:
            nodes = [each.section for each in members if each.section and issubclass(each.section, Node)]
            tagged = [each.section for each in members if each.section and tag_of(each.section)]
            rest = [each for each in members if each.section not in (*nodes, *tagged) or not each.section]
            forms = [self._form(each) for each in rest] + member.beside
            forms += [self._node(nodes)] if nodes else []
            if tagged:
                plain = [each for each in rest if each.section]
                forms = [form for form, each in zip(forms, rest, strict=False) if each not in plain]
                forms.append(self._tagged(tagged, [each.section for each in plain if each.section]))
            return forms[0] if len(forms) == 1 else any_of(*forms)
        if (section := member.section) is not None:
            return self._node([section]) if issubclass(section, Node) else self._section(section)
        origin, arguments = get_origin(member.kind), get_args(member.kind)
        form = plain_type(member.kind)
        if origin is list and (items := self._form(Member(arguments[0]))):
            form["items"] = items
        if origin is dict and (values := self._form(Member(arguments[1]))):
            form["additionalProperties"] = values
        least = next((each.min_length for each in member.metadata if hasattr(each, "min_length")), None)
        return form | ({"minItems": least} if least else {})

    def _tagged(self, sections: list[Any], plain: list[type[BaseModel]]) -> dict[str, Any]:
        """Return the schema of one of several sections by a word in it; without the word, of any of them."""
        tags = {section: tag for section in sections if (tag := tag_of(section))}
        (key,) = {name for name, _ in tags.values()}
        cases = [_case(key, word, self._section(section)) for section, (_, word) in tags.items()]
        anyone = any_of(*(self._section(section) for section in (*tags, *plain)))
        words = {"enum": [word for _, word in tags.values()]}
        properties = {key: opened(any_of(words, {"type": "null"}))} if plain else {key: opened(words)}
        return {
            "type": "object",
            "properties": properties,
            "allOf": [*cases, {"if": {"not": {"required": [key]}}, "then": anyone}],
        }

    def _section(self, section: type[BaseModel]) -> dict[str, Any]:
        """Return a reference to the schema of a section."""
        name = section.__name__
        if name not in self.definitions:
            self.definitions[name] = {}  # a section may hold itself
            properties: dict[str, Any] = {
                key: _property(form, text, default) for key, form, text, default in self._fields(section)
            }
            typed = rest_of(section)
            form = {} if typed is None else opened(self._form(typed))
            if section in self.of_groups:
                for option in self.catalogue.options(self.of_groups[section]).values() if form else ():
                    for key in read_option(option.path).content.keys() - {"defaults", *properties}:
                        properties[key] = {"description": option.summary, **form}
                properties["defaults"] = True  # of an option file
            self.definitions[name] = {
                "description": _first_line(section),
                "type": "object",
                "properties": properties,
                "additionalProperties": form or section.model_config.get("extra") == "allow",
            }
        return _ref(name)

    def _node(self, sections: list[Any]) -> dict[str, Any]:
        """Return a reference to the schema of an object of one of several classes: its `_target_` and arguments."""
        name = "-or-".join(section.__name__ for section in sections)
        if name in self.definitions:
            return _ref(name)
        self.definitions[name] = {}
        known = {target: section for section in sections for target in self.uses.get(section, {})}
        cases = [_case("_target_", target, self._arguments(section, target)) for target, section in known.items()]
        general = {
            key: _property(form, text, ...) for section in sections for key, form, text, _ in self._fields(section)
        }
        general.pop("_target_", None)
        unknown = {"properties": {"_target_": {"not": {"enum": [*known]}}}} if known else {}  # an enum has an entry
        cases.append({"if": {**unknown, "required": ["_target_"]}, "then": {"properties": general}})
        if known:
            partial = {"properties": self._of_any(known), "additionalProperties": False}
            cases.append({"if": {"not": {"required": ["_target_"]}}, "then": partial})
        text = attributes_in_source(Node)["target"]
        target = any_of(*([{"enum": [*known]}] if known else []), {"type": "string"})
        self.definitions[name] = {
            "description": _first_line(sections[0]),
            "type": "object",
            "properties": {"_target_": _property(target, text, ...)},
            "allOf": cases,
        }
        return _ref(name)

    def _of_any(self, known: Mapping[str, type[Node]]) -> dict[str, Any]:
        """Return the arguments of several targets, each with all of its schemas."""
        found: dict[str, list[Any]] = {}
        for target, section in known.items():
            definition = self.definitions[self._arguments(section, target)["$ref"].rpartition("/")[2]]
            for name, form in definition["properties"].items():
                found.setdefault(name, []).append(form)
        return {name: _joined(forms) for name, forms in found.items()}

    def _arguments(self, section: type[Node], target: str) -> dict[str, Any]:
        """Return a reference to the schema of a node with a known target."""
        if target in self.definitions:
            return _ref(target)
        fields = {key: rest for key, *rest in self._fields(section)}
        kind = target.rpartition(".")[2].lower()
        uses = sorted(self.uses[section][target], key=lambda use: use.option.name.replace("_", "") != kind)
        group = self.group_of[section]
        passed, ignored = PASSED.get(group, ((), ()))
        parameters, complete = named_in_source(target)
        summary, texts = docstring_in_source(target)
        traits = traits_named(target) or Traits()
        offered = (key for key in ignored if key in fields)
        names = [*(key for use in uses for key in use.content), *parameters, *traits.swallows, *offered]
        properties: dict[str, Any] = {}
        for name in dict.fromkeys(names):
            if name in (*CONTROLS, "defaults", *passed):
                continue
            parameter = parameters.get(name, Parameter(name, Parameter.KEYWORD_ONLY))
            form, text, _ = fields.get(name, ({}, None, ...))
            form = form or self._value(target, parameter, [use.content[name] for use in uses if name in use.content])
            comments = [use.comments[name] for use in uses if name in use.comments]
            written = [as_json(use.content[name]) for use in uses[:1] if name in use.content]
            own = next(iter(written), as_json(parameter.default))
            properties[name] = _property(form, next(iter(comments), None) or texts.get(name) or text, own)
        self.definitions[target] = {
            **({"description": summary} if summary else {}),
            "type": "object",
            "properties": {
                "_target_": {"const": target},
                **properties,
                "_partial_": {"type": "boolean"},
                "_args_": {"type": "array"},
                "defaults": True,
            },
            **({"additionalProperties": False} if complete else {}),
        }
        return _ref(target)

    def _value(self, target: str, parameter: Parameter, given: list[Any]) -> dict[str, Any]:
        """Return the schema of an argument that lrflow has no field for.

        Args:
            target: the class that takes it.
            parameter: its annotation and default, where they are known.
            given: its values in option files, which are allowed whatever the annotation says.
        """
        name, kind = parameter.name, target.rpartition(".")[2]
        if (traits := traits_named(target)) and (limits := traits.ranges.get(name)) is not None:
            return self._form(Member(field_of(limits)))
        if target.startswith("lrflow.feedback.") and (limit := {**BOUNDS, **LIMITS.get(kind, {})}.get(name)):
            return dict(limit.json)
        if target.startswith("lrflow.clip.") and (limit := CLIP_LIMITS.get(kind, {}).get(name)):
            return dict(limit.json)
        if target.startswith("lrflow.health.") and (limit := DETECTOR_LIMITS.get(kind, {}).get(name)):
            return dict(limit.json)
        if not isinstance(parameter.annotation, Annotation):
            return {}
        if "DurationLike" in parameter.annotation.alternatives():
            return any_of({"type": "number", "minimum": 0}, *INTERVAL["anyOf"][1:], {"type": "null"})
        limit = limit_of(parameter.annotation)
        if limit is None or not limit.json:
            return {}
        values = [value for value in (parameter.default, *given) if not limit.holds(value)]
        others = [{"enum": [shown]} for value in values if (shown := as_json(value)) is not ...]
        return any_of(dict(limit.json), NODE, *others)


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").partition("\n")[0]


def _root(title: str, form: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that a YAML file can name, by a fragment too.

    The YAML language server (1.25) adds the keys of the whole schema to those of a fragment, so both have the same.
    """
    return {"title": title, "allOf": [form]}


def _case(key: str, value: str, then: Mapping[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": then}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/definitions/{name}"}


def _property(form: Mapping[str, Any], text: str | None, default: Any) -> dict[str, Any]:
    text = re.sub(r"\bNone\b", "null", text or "")
    described = ({"description": text} if text else {}) | ({} if default is ... else {"default": default})
    return {**described, **opened(form)}


def _joined(forms: list[Any]) -> Any:
    """Return the schema of a key that has several schemas; its text is that of the first."""
    distinct = {json.dumps(_bare(form), sort_keys=True): form for form in reversed(forms)}
    if len(distinct) == 1 or not all(isinstance(form, dict) for form in forms):
        return forms[0]
    text = {key: forms[0][key] for key in ("description",) if key in forms[0]}
    if {} in map(_bare, forms):
        return text
    return {**text, **opened(any_of(*(inner for form in forms for inner in _bare(form).get("anyOf", [_bare(form)]))))}


def _bare(form: Any) -> dict[str, Any]:
    said = form if isinstance(form, dict) else {}
    return {key: value for key, value in said.items() if key not in ("description", "default")}
