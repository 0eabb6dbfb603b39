"""What a schema says of a value: pydantic's findings as problems, and which paths a JSON Schema rules out."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from kernel.agents.templating import Path, join
from kernel.errors import Problem

Loc = tuple[str | int, ...]

_ABSENT = ("missing", "extra_forbidden")
_OBJECT, _ARRAY = "object", "array"


def schema_problems(
    model: type[BaseModel], raw: Any, excused: Callable[[str, Any], bool] = lambda field, value: False
) -> list[Problem]:
    """Defects of `raw` against a model, with fields relative to it, but for those `excused(field, value)`."""
    try:
        model.model_validate(raw)
    except ValidationError as exc:
        found = exc.errors(include_url=False, include_input=False, include_context=False)
        return list(dict.fromkeys(_problems(found, raw, excused)))
    return []


def _problems(found: list[Any], raw: Any, excused: Callable[[str, Any], bool]) -> Iterator[Problem]:
    for error in found:
        field, value = _locate(raw, error["loc"], error["type"] in _ABSENT)
        if not excused(field, value):
            yield Problem(field, error["msg"].removeprefix("Value error, "))


def _locate(raw: Any, loc: Loc, absent: bool) -> tuple[str, Any]:
    """The field and what is there. Steps that name no place, such as the member of a union, are left out."""
    field, value, found = "", raw, True
    for step in loc:
        found = _has(value, step)
        if found:
            field, value = join(field, step), value[step]
    return (field, value) if found or not absent else (join(field, loc[-1]), None)


def _has(value: Any, step: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return isinstance(value, dict) and step in value


def ruled_out(path: Path, schema: Mapping[str, Any]) -> str | None:
    """Why no input that fits the schema can have anything at this path; None when it may."""
    at, here = path.root, schema
    for step in path.steps:
        if reason := _no_step(here, step, at):
            return reason
        at, here = join(at, step), _below(here, step)
    return None


def _no_step(schema: Mapping[str, Any], step: str | int, at: str) -> str | None:
    needed = _OBJECT if isinstance(step, str) else _ARRAY
    kinds = schema.get("type")
    if kinds is not None and needed not in (kinds if isinstance(kinds, list) else [kinds]):
        return f"'{at}' is no {needed} by the input schema, so it has no {step!r}"
    if isinstance(step, str) and _closed(schema) and step not in _properties(schema):
        return f"The input schema has no '{join(at, step)}'"
    return None


def _closed(schema: Mapping[str, Any]) -> bool:
    open_ends = ("patternProperties", "$ref", "$dynamicRef")
    return schema.get("additionalProperties") is False and not any(key in schema for key in open_ends)


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def _below(schema: Mapping[str, Any], step: str | int) -> Mapping[str, Any]:
    if isinstance(step, str):
        found = _properties(schema).get(step)
    else:
        found = None if "prefixItems" in schema else schema.get("items")
    return found if isinstance(found, Mapping) else {}
