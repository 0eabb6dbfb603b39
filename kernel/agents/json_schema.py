"""Whether a JSON Schema that a caller gave can be used: small, whole in itself, and fit to be run.

Its libraries raise whatever their last line happened to raise (`a{99999999999}` overflows, `#/allOf/x` is no
number): all of that means that the schema cannot be read, which is its author's to know.
"""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from kernel.agents.templating import join
from kernel.errors import Problem

LARGEST_BYTES = 65_536
LONGEST_PATTERN = 512


def json_schema_problems(schema: dict[str, Any], field: str) -> list[Problem]:
    """At most one problem, at `field` or what of it is wrong. Takes long for a large one: 0.2 s for 50 KB."""
    if len(orjson.dumps(schema)) > LARGEST_BYTES:
        return [Problem(field, f"Is larger than {LARGEST_BYTES >> 10} KB")]
    for reason in _patterns(schema):
        return [Problem(field, reason)]
    if problem := _invalid(schema, field):
        return [problem]
    return [Problem(field, reason) for reason in _references(schema)][:1]


def _invalid(schema: dict[str, Any], field: str) -> Problem | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        for step in error.absolute_path:
            field = join(field, step)
    except (OverflowError, RecursionError):
        pass
    else:
        return None
    return Problem(field, "Is not valid in JSON Schema 2020-12")


def _references(schema: dict[str, Any]) -> Iterator[str]:
    """`$ref` must lead to a schema in the same schema: nothing is ever fetched."""
    found = [(name, value) for name, value in _members(schema) if name in ("$ref", "$dynamicRef")]
    wanted = dict.fromkeys(one for one in found if isinstance(one[1], str))
    if not wanted:
        return
    resolver = _resolver(schema)
    for name, reference in wanted:
        if not reference.startswith("#"):
            yield f"'{name}' must begin with '#': schemas elsewhere are not read"
        elif resolver is None or not _leads_to_schema(resolver, reference):
            yield f"'{name}' leads to no schema in this schema"


def _resolver(schema: dict[str, Any]) -> Any:
    """Of a registry that has looked through the schema once; None when an `$id` in it is no URI."""
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    resource = DRAFT202012.create_resource(schema)
    root = resource.id() or ""
    try:
        return Registry[Any]().with_resource(root, resource).crawl().resolver(root)
    except ValueError:
        return None


def _leads_to_schema(resolver: Any, reference: str) -> bool:
    from referencing.exceptions import Unresolvable

    try:
        return isinstance(resolver.lookup(reference).contents, dict | bool)
    except (Unresolvable, ValueError, TypeError, AttributeError, LookupError):
        return False


def _patterns(schema: dict[str, Any]) -> Iterator[str]:
    for name, value in _members(schema):
        sources = [value] if name == "pattern" else list(value) if name == "patternProperties" else []
        for source in sources:
            if isinstance(source, str) and not _is_pattern(source):
                yield f"'{name}' has a regular expression that does not compile or is too long"


def _is_pattern(source: str) -> bool:
    try:
        return len(source) <= LONGEST_PATTERN and re.compile(source) is not None
    except (re.error, OverflowError, RecursionError):
        return False


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict):
        yield from value.items()
    for part in parts:
        yield from _members(part)
