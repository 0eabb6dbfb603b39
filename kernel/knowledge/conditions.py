"""How a filter is put to the vector store: an expression in Milvus's words, the values apart from it.

Servers differ in what they know, and in what they make of a value that is not there. Where one cannot be asked just
what is wanted it is asked for more; `filters.matches` drops the rest.
"""

import re
from collections.abc import Mapping
from typing import Any

from kernel.knowledge.filters import COMPARISONS, PAGE, TEXTS, Clause, Every, Filter, Not, Operator
from kernel.storage.chunks import Capabilities, Condition, Value

OPPOSITES: Mapping[str, Operator] = {"gt": "lte", "gte": "lt", "lt": "gte", "lte": "gt"}


def condition(wanted: Filter, server: Capabilities) -> Condition | None:
    """What the vector store is asked; None is everything. It lets through all that matches, and more where the server
    cannot be asked."""
    writer = _Writer(server)
    expression = writer.write(wanted, True)
    return None if expression is None else Condition(expression, writer.values)


class _Writer:
    """Turns a filter into an expression; None stands for what cannot be asked. wanted: False writes the opposite.

    `not` of an expression is never written: servers disagree on what it is of a value that is not there.
    """

    def __init__(self, server: Capabilities):
        self.values: dict[str, Value] = {}
        self._server = server

    def write(self, part: Filter, wanted: bool) -> str | None:
        match part:
            case Not(inner):
                return self.write(inner, not wanted)
            case Clause():
                return self._clause(part, wanted)
        written = [self.write(one, wanted) for one in part.parts]
        known = [one for one in written if one is not None]
        if isinstance(part, Every) == wanted:
            return _joined(" and ", known)
        return _joined(" or ", known) if len(known) == len(written) else None

    def _clause(self, clause: Clause, wanted: bool) -> str | None:
        own = clause.field in TEXTS or clause.field == PAGE
        match clause.operator:
            case "exists":
                return self._exists(clause.field, clause.value == wanted)
            case "contains":
                return self._contains(clause, own) if wanted and self._server.infix else None
            case "ne":
                return self._among(clause.field, [clause.value], not wanted)
            case "eq" | "in":
                values = clause.value if clause.operator == "in" else [clause.value]
                return self._among(clause.field, values, wanted)
        return self._compares(clause, wanted) if own or wanted else None

    def _exists(self, name: str, wanted: bool) -> str | None:
        if name in TEXTS or name == PAGE:
            return _there(name) if wanted else _gone(name)
        if not self._server.exists:
            return None
        return f"(exists {_path(name)})" if wanted else f"not (exists {_path(name)})"

    def _contains(self, clause: Clause, own: bool) -> str:
        path = _path(clause.field)
        if own:
            return f"{path} like {self._bind(_pattern(clause.value))}"
        found = f"json_contains({path}, {self._bind(clause.value)})"
        if isinstance(clause.value, str):
            return f"({found} or {path} like {self._bind(_pattern(clause.value))})"
        return found

    def _compares(self, clause: Clause, wanted: bool) -> str:
        name, operator = clause.field, clause.operator if wanted else OPPOSITES[clause.operator]
        value = int(clause.value) if name == PAGE else clause.value
        return self._owned(name, f"{_path(name)} {COMPARISONS[operator]} {self._bind(value)}", wanted)

    def _among(self, name: str, values: list[Any], wanted: bool) -> str | None:
        if name in TEXTS or name == PAGE:
            bound = self._bind([int(value) for value in values] if name == PAGE else values)
            return self._owned(name, f"{name} {'in' if wanted else 'not in'} {bound}", wanted)
        if not wanted and not self._server.loose:
            return None
        sign, word = ("==", " or ") if wanted else ("!=", " and ")
        return _joined(word, [f"{_path(name)} {sign} {self._bind(value)}" for value in values])

    def _owned(self, name: str, found: str, wanted: bool) -> str:
        """Every row has our own fields: without a page it is 0, without a title empty."""
        if name not in TEXTS and name != PAGE:
            return found
        return f"({found} and {_there(name)})" if wanted else f"({found} or {_gone(name)})"

    def _bind(self, value: Value) -> str:
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}}}"


def _joined(word: str, parts: list[str]) -> str | None:
    """In halves of halves: servers take some fifty levels of nesting, and a chain is one level for each part."""
    if len(parts) < 2:
        return parts[0] if parts else None
    half = len(parts) // 2
    return f"({_joined(word, parts[:half])}{word}{_joined(word, parts[half:])})"


def _path(name: str) -> str:
    return name if name in TEXTS or name == PAGE else f'metadata["{name}"]'


def _there(name: str) -> str:
    return "page > 0" if name == PAGE else f'{name} != ""'


def _gone(name: str) -> str:
    return "page == 0" if name == PAGE else f'{name} == ""'


def _pattern(text: str) -> str:
    """Anything that has the text in it."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"
