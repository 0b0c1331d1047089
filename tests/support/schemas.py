"""Validation of YAML files against the JSON schema that lrflow prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match

from lrflow.config.composition.options import definition_of


def against(schema: dict[str, Any]) -> Callable[..., str]:
    """What a schema refuses in a config or recipe, or in an option of a group; empty: nothing."""
    Draft7Validator.check_schema(schema)
    validators = {"": Draft7Validator(schema)}

    def error_in(value: Any, group: str = "") -> str:
        if group not in validators:
            name = group if group in schema["definitions"] else definition_of(group)
            reference = {"$ref": f"#/definitions/{name}", "definitions": schema["definitions"]}
            validators[group] = Draft7Validator(reference)
        error = best_match(validators[group].iter_errors(value))
        return f"{error.json_path}: {error.message[:300]}" if error else ""

    return error_in
