"""What the API answers, as frozen dataclasses.

`raw` is the JSON object as it came: what a newer server adds is found there, and nothing it leaves out breaks a
program (the field is then None, or its default).
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import datetime
from functools import cache
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

Read = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Model:
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """From an object of the API."""
        values = {
            name: read(raw[name]) if raw.get(name) is not None else default
            for name, (read, default) in cls._readers().items()
        }
        return cls(raw=raw, **values)

    @classmethod
    @cache
    def _readers(cls) -> dict[str, tuple[Read, Any]]:
        """How each field is read, and what it is when it does not come."""
        hints, known = get_type_hints(cls), [one for one in fields(cls) if one.name != "raw"]
        return {one.name: (_reader(hints[one.name]), _default(one)) for one in known}


def _default(one: Field[Any]) -> Any:
    return None if one.default is MISSING else one.default


def _reader(kind: Any) -> Read:
    """How a value of this type is made from JSON."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _reader(next(arg for arg in args if arg is not types.NoneType))
    if origin is list:
        return _list_of(_reader(args[0]))
    if origin is dict:
        return _dict_of(_reader(args[1]))
    if origin is Literal:
        return _as_is
    if kind is datetime:
        return datetime.fromisoformat
    return kind.read if isinstance(kind, type) and issubclass(kind, Model) else _as_is


def _as_is(value: Any) -> Any:
    return value


def _list_of(read: Read) -> Read:
    return lambda values: [read(value) for value in values]


def _dict_of(read: Read) -> Read:
    return lambda values: {name: read(value) for name, value in values.items()}
