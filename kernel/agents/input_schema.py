"""Whether an agent's `input_schema` can be used: a JSON Schema that is whole in itself."""

import re
from collections.abc import Iterator
from typing import Any

from kernel.errors import Problem

LONGEST_PATTERN = 512


def input_schema_problems(schema: dict[str, Any]) -> list[Problem]:
    """At most one problem, at `input_schema` or what of it is wrong."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        steps = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in error.absolute_path)
        return [Problem(f"input_schema{steps}", "Is not valid in JSON Schema 2020-12")]
    reasons = [*_references(schema), *_patterns(schema)]
    return [Problem("input_schema", reason) for reason in reasons[:1]]


def _references(schema: dict[str, Any]) -> Iterator[str]:
    """`$ref` must lead to a place in the same schema: nothing is ever fetched."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resolver = Registry[Any]().resolver_with_root(DRAFT202012.create_resource(schema))
    for name, value in _members(schema):
        if name in ("$ref", "$dynamicRef") and isinstance(value, str):
            if not value.startswith("#"):
                yield f"'{name}' must begin with '#': schemas elsewhere are not read"
                continue
            try:
                resolver.lookup(value)
            except Unresolvable:
                yield f"'{name}' leads to nothing in this schema"


def _patterns(schema: dict[str, Any]) -> Iterator[str]:
    for name, value in _members(schema):
        sources = [value] if name == "pattern" else list(value) if name == "patternProperties" else []
        for source in sources:
            if isinstance(source, str) and not _is_pattern(source):
                yield f"'{name}' has a regular expression that does not compile or is too long"


def _is_pattern(source: str) -> bool:
    try:
        return len(source) <= LONGEST_PATTERN and re.compile(source) is not None
    except re.error:
        return False


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict):
        yield from value.items()
    for part in parts:
        yield from _members(part)
