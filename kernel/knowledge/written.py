"""Documents that a program writes itself, text by text, perhaps with their vectors: many in one request."""

import math
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, Field

from kernel.knowledge.contract import Fetched, Found, content_version
from kernel.knowledge.sources.shapes import METADATA, DocumentText, Metadata, Title
from kernel.shape import Shape, at_most
from kernel.storage.objects import ObjectStore
from kernel.text import clean_name

MOST = 10_000
"""Documents of one request."""
MOST_WITH_VECTOR = 65_535
"""Bytes of a text that comes with its vector, and so is one chunk."""
MOST_DIMENSIONS = 32_768


def _id(text: str) -> str:
    return clean_name(text, 256)


def _vector(vector: list[float]) -> list[float]:
    if not all(map(math.isfinite, vector)) or not any(vector):
        raise ValueError("must have finite numbers, not all of them 0")
    return vector


class WrittenDocument(Shape):
    """vector: of the text, which is not cut into chunks then."""

    id: Annotated[str, AfterValidator(_id)] = Field(
        description="the same id replaces the document", examples=["faq-1"]
    )
    text: DocumentText = Field(examples=["Keys are made under Settings."])
    vector: (
        Annotated[
            list[float],
            at_most(MOST_DIMENSIONS, "must have at most {longest} numbers"),
            AfterValidator(_vector),
        ]
        | None
    ) = Field(None, description="of the collection's dimension; without it, the text is embedded")
    title: Title | None = None
    metadata: Metadata = Field(default_factory=dict, description=METADATA)

    def problem(self, dimension: int) -> tuple[str, str] | None:
        """The field that does not fit a collection of this dimension, and why."""
        if self.vector is None:
            return None
        if len(self.vector) != dimension:
            return "vector", f"Must have {dimension} numbers, not {len(self.vector)}"
        if len(self.text.encode()) > MOST_WITH_VECTOR:
            return "text", f"Must have at most {MOST_WITH_VECTOR} bytes when it comes with its vector"
        return None


class WrittenEntry(Shape):
    """How a job's order tells of them. path: in the object store."""

    type: Literal["documents"] = "documents"
    path: str


class WrittenSource:
    """A file of theirs, a JSON object on each line. The handle has the text itself: `fetch` reads nothing."""

    def __init__(self, entry: WrittenEntry, objects: ObjectStore):
        self._path, self._objects = entry.path, objects

    async def list(self) -> AsyncGenerator[Found]:
        for line in (await self._objects.get(self._path)).splitlines():
            yield _found(orjson.loads(line))

    async def fetch(self, found: Found) -> Fetched | None:
        return Fetched(found.handle["text"].encode(), "text.txt", "text/plain", found.version)


def in_lines(documents: Sequence[WrittenDocument]) -> bytes:
    return b"\n".join(orjson.dumps(one.model_dump()) for one in documents)


def _found(document: dict[str, Any]) -> Found:
    text, vector = document["text"], document["vector"]
    told = text.encode() if vector is None else orjson.dumps([text, vector])
    return Found(
        location=document["id"],
        title=document["title"] or document["id"],
        source_type="documents",
        version=content_version(told),
        size=len(told),
        handle={"text": text} | ({"vector": vector} if vector else {}),
        metadata=document["metadata"],
    )
