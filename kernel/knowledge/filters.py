"""Filters of a search: read from what callers send, asked of the vector store, and told of a single chunk.

`{"source_type": "documentation", "page": {"gt": 3}, "not": {"team": {"in": ["a", "b"]}}}`. Names are those of a chunk's
own fields or else of its metadata. `read` checks the form; `condition` is what the vector store can be asked; `matches`
is what a filter means. Where a server cannot be asked just that, it is asked for more, and `matches` drops the rest.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kernel.errors import Problem, ValidationError
from kernel.storage.chunks import Hit

Kind = Literal["text", "number", "bool"]
Operator = Literal["eq", "ne", "in", "gt", "gte", "lt", "lte", "contains", "exists"]

TEXTS = frozenset({"source_type", "location", "title", "document_id"})
PAGE = "page"
OPERATORS = ("eq", "ne", "in", "gt", "gte", "lt", "lte", "contains", "exists")
JOINS = ("and", "or", "not")
MAX_DEPTH = 8
MAX_CLAUSES = 200
"""Conditions in all; each value of an `in` is one."""
MAX_VALUES = 100
LONGEST_TEXT = 1024
LARGEST_NUMBER = 2**63 - 1

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
COMPARISONS: Mapping[str, str] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


@dataclass(frozen=True, slots=True)
class Clause:
    """`field` has to be `operator` `value`. value: a list for `in`, true or false for `exists`."""

    field: str
    operator: Operator
    value: Any


@dataclass(frozen=True, slots=True)
class Every:
    """Every part holds; without parts, always."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Some:
    """Some part holds."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: "Filter"


Filter = Clause | Every | Some | Not


def read(raw: Any, at: str = "filters") -> Filter:
    """Raises ValidationError naming the path of each thing that is wrong, such as `filters.and[0].page.gt`."""
    reader = _Reader()
    found = reader.filter(raw, at, MAX_DEPTH)
    if reader.clauses > MAX_CLAUSES:
        reader.problems.append(
            Problem(at, f"must have at most {MAX_CLAUSES} conditions, not {reader.clauses}")
        )
    if reader.problems:
        raise ValidationError.of("Invalid filters", reader.problems)
    return found


class _Reader:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.clauses = 0

    def filter(self, raw: Any, at: str, depth: int) -> Filter:
        if not isinstance(raw, dict):
            return self._wrong(at, "must be an object of fields and conditions")
        if depth == 0:
            return self._wrong(at, f"must not be nested deeper than {MAX_DEPTH}")
        if len(raw) > MAX_CLAUSES:
            return self._wrong(at, f"must have at most {MAX_CLAUSES} conditions, not {len(raw)}")
        return Every(tuple(self._entry(name, value, at, depth) for name, value in raw.items()))

    def _entry(self, name: str, value: Any, at: str, depth: int) -> Filter:
        if name == "not":
            return Not(self.filter(value, f"{at}.not", depth - 1))
        if name in JOINS:
            return self._join(name, value, f"{at}.{name}", depth)
        if _NAME.fullmatch(name) is None:
            return self._wrong(at, "has a field name that is not letters, digits and _ (at most 64)")
        return self._field(name, value, f"{at}.{name}")

    def _join(self, name: str, value: Any, at: str, depth: int) -> Filter:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_CLAUSES:
            return self._wrong(at, f"must be a list of 1 to {MAX_CLAUSES} filters")
        parts = tuple(self.filter(one, f"{at}[{n}]", depth - 1) for n, one in enumerate(value))
        return Every(parts) if name == "and" else Some(parts)

    def _field(self, name: str, value: Any, at: str) -> Filter:
        if not isinstance(value, dict):
            return self._clause(name, "eq", value, at)
        if not value or len(value) > len(OPERATORS):
            return self._wrong(at, f"must have conditions: {', '.join(OPERATORS)}")
        return Every(tuple(self._operation(name, *one, f"{at}.{one[0][:64]}") for one in value.items()))

    def _operation(self, name: str, operator: str, value: Any, at: str) -> Filter:
        if operator not in OPERATORS:
            return self._wrong(at, f"Unknown condition; there are {', '.join(OPERATORS)}")
        return self._clause(name, operator, value, at)

    def _clause(self, name: str, operator: Any, value: Any, at: str) -> Filter:
        self.clauses += len(value) if isinstance(value, list) else 1
        if operator == "exists":
            if not isinstance(value, bool):
                return self._wrong(at, "must be true or false")
        elif operator == "in":
            if not isinstance(value, list) or not 1 <= len(value) <= MAX_VALUES:
                return self._wrong(at, f"must be a list of 1 to {MAX_VALUES} values")
            for n, one in enumerate(value):
                self._check(name, operator, one, f"{at}[{n}]")
        else:
            self._check(name, operator, value, at)
        return Clause(name, operator, value)

    def _check(self, name: str, operator: str, value: Any, at: str) -> None:
        if reason := _unfit(name, operator, value):
            self._wrong(at, reason)

    def _wrong(self, at: str, reason: str) -> Filter:
        self.problems.append(Problem(at, reason))
        return Every(())


def _unfit(name: str, operator: str, value: Any) -> str | None:
    kind = _kind(value)
    if kind is None:
        return "must be text, a number, true or false"
    if name in TEXTS and kind != "text":
        return f"must be text, as {name} is"
    if name == PAGE and (kind != "number" or int(value) != value):
        return "must be a whole number, as page is"
    if name == PAGE and operator == "contains":
        return "is for text and lists, and page is a number"
    if operator in COMPARISONS and kind == "bool":
        return "must be text or a number, to be compared with"
    if kind == "text" and (len(value) > LONGEST_TEXT or any(one < " " for one in value)):
        return f"must be one line of at most {LONGEST_TEXT} characters"
    if kind == "number" and abs(value) > LARGEST_NUMBER and isinstance(value, int):
        return "must be a number of 64 bits"
    return None


def _kind(value: Any) -> Kind | None:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else None


def matches(wanted: Filter, hit: Hit) -> bool:
    match wanted:
        case Every(parts):
            return all(matches(part, hit) for part in parts)
        case Some(parts):
            return any(matches(part, hit) for part in parts)
        case Not(part):
            return not matches(part, hit)
        case Clause(name, operator, value):
            return _holds(_value(hit, name), operator, value)


def _value(hit: Hit, name: str) -> Any:
    """None when the chunk has no such thing: no page, an empty title."""
    if name in TEXTS:
        return getattr(hit, name) or None
    return hit.page if name == PAGE else hit.metadata.get(name)


def _holds(there: Any, operator: Operator, value: Any) -> bool:
    match operator:
        case "exists":
            return bool((there is not None) == value)
        case "eq":
            return _same(there, value)
        case "ne":
            return not _same(there, value)
        case "in":
            return any(_same(there, one) for one in value)
        case "contains":
            if isinstance(there, list):
                return any(_same(one, value) for one in there)
            return isinstance(there, str) and isinstance(value, str) and value in there
    return _kind(there) == _kind(value) and _COMPARE[operator](there, value)


def _same(there: Any, value: Any) -> bool:
    return _kind(there) == _kind(value) and bool(there == value)


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}
