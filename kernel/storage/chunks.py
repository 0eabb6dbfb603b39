"""Chunks as the vector store has them: rows that are written, hits that are found, and what may be asked.

A collection of ours is one collection of the vector store, named by `place`: a chunk a row.
"""

import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Metric = Literal["cosine", "ip", "l2"]
Value = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]


class Piece(Protocol):
    """The text of a row and where in its document it is from. seam: see `kernel.knowledge.seams`."""

    @property
    def position(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def page(self) -> int | None: ...
    @property
    def heading(self) -> str | None: ...
    @property
    def seam(self) -> str: ...


class Row(Protocol):
    """A chunk with its vector, as `kernel.knowledge.contract.Row` has it."""

    @property
    def chunk_id(self) -> str: ...
    @property
    def document_id(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def chunk(self) -> Piece: ...
    @property
    def vector(self) -> Sequence[float]: ...
    @property
    def source_type(self) -> str: ...
    @property
    def location(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Condition:
    """An expression of Milvus with names in braces for its values: `source_type == {p0}`."""

    expression: str
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """What is near a vector, or has the words of a text."""

    by: Sequence[float] | str
    limit: int
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that was found. score: by the collection's metric, as Milvus has it, or BM25 (some servers negate it)."""

    chunk_id: str
    document_id: str
    version: str
    position: int
    text: str
    source_type: str
    location: str
    title: str
    page: int | None
    heading: str | None
    offset: int
    metadata: dict[str, Any]
    score: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A chunk as it was written, a `Piece`. vector: float32, empty when it was not asked for."""

    position: int
    text: str
    offset: int
    page: int | None
    heading: str | None
    seam: str
    vector: "array[float]"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server can do. keyword: search by words. binds: takes a filter's values apart from its expression. The
    rest is of filters on metadata: infix: `like` with text inside. exists: `exists`, for values of all types. loose:
    `!=` and `not in` hold where there is no such key, or one of another type."""

    keyword: bool
    binds: bool
    infix: bool
    exists: bool
    loose: bool


class VectorsMissing(Exception):
    """There is no such collection in the vector store."""


class VectorsRefused(Exception):
    """The vector store answered with an error that our code did not expect."""


def stem(collection_id: str) -> str:
    """What the names of a collection's vectors begin with."""
    return f"c_{collection_id.removeprefix('col_').lower()}_"


def place(collection_id: str, live: int) -> str:
    """The name of a collection's vectors: `live` grows with each making anew."""
    return f"{stem(collection_id)}{live}"


def literal(value: Value) -> str:
    """A value as an expression has it. Raises ValueError for text with a line break, which no expression can hold."""
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    if "\n" in value or "\r" in value:
        raise ValueError("text in an expression must not have line breaks")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def written(condition: Condition) -> str:
    """The expression with its values in it, for a server that binds none."""
    return re.sub(r"\{(p\d+)\}", lambda found: literal(condition.values[found[1]]), condition.expression)
