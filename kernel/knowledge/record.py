"""A collection as callers send it, as it is stored, and as they see it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from kernel.clock import rfc3339
from kernel.errors import Problem
from kernel.shape import Shape
from kernel.storage.chunks import Metric, place
from kernel.storage.knowledge import StoredCollection
from kernel.text import clean_text, refuse_null

CHUNK_SIZE, CHUNK_OVERLAP = 1000, 200
MIN_CHUNK, MAX_CHUNK, MAX_CHUNK_TOKENS = 50, 8000, 2000
"""No chunk may be larger than what a row of the vector store holds."""

Unit = Literal["characters", "tokens"]


def _description(text: str) -> str:
    return clean_text(text, 4096)


CollectionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-][A-Za-z0-9._-]{0,63}$")]
"""Names that begin with _ are kept for this product."""
Description = Annotated[str, AfterValidator(_description)]
Model = Annotated[str, Field(min_length=1, max_length=256)]
ChunkSize = Annotated[int, Field(ge=MIN_CHUNK, le=MAX_CHUNK)]
ChunkOverlap = Annotated[int, Field(ge=0, lt=MAX_CHUNK)]


class CollectionCreate(Shape):
    """Body of `POST /rag/collections`."""

    name: CollectionName
    description: Description = ""
    embedding_model: Model | None = Field(None, description="by default the first of GET /models that embeds")
    chunk_size: ChunkSize = CHUNK_SIZE
    chunk_overlap: ChunkOverlap | None = Field(
        None, description=f"by default {CHUNK_OVERLAP}, and a fifth of a chunk_size up to that"
    )
    chunk_unit: Unit = "characters"
    metric: Metric = "cosine"

    _not_null = field_validator("embedding_model", "chunk_overlap", mode="before")(refuse_null)


class CollectionPatch(Shape):
    """Body of `PATCH /rag/collections/{id}`: an absent field stays."""

    name: CollectionName | None = None
    description: Description | None = None
    embedding_model: Model | None = None
    chunk_size: ChunkSize | None = None
    chunk_overlap: ChunkOverlap | None = None
    chunk_unit: Unit | None = None
    metric: Metric | None = None

    _not_null = field_validator("*", mode="before")(refuse_null)


class Making(BaseModel):
    """How a collection's vectors are made from its documents."""

    model_config = ConfigDict(frozen=True)

    embedding_model: str
    chunk_size: int
    chunk_overlap: int
    chunk_unit: Unit
    metric: Metric

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    def problems(self) -> list[Problem]:
        found = []
        if self.chunk_overlap >= self.chunk_size:
            found.append(
                Problem("chunk_overlap", f"must be less than chunk_size, which is {self.chunk_size}")
            )
        if self.chunk_unit == "tokens" and self.chunk_size > MAX_CHUNK_TOKENS:
            found.append(Problem("chunk_size", f"must be at most {MAX_CHUNK_TOKENS} tokens"))
        return found


class Item(Making):
    """What people set of a collection. Times in ms."""

    name: str
    description: str
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, order: CollectionCreate, default_model: str, now_ms: int) -> "Item":
        given = order.model_dump(exclude={"chunk_overlap", "embedding_model"})
        default = CHUNK_OVERLAP if order.chunk_size > CHUNK_OVERLAP else order.chunk_size // 5
        overlap = default if order.chunk_overlap is None else order.chunk_overlap
        model = order.embedding_model or default_model
        return cls(
            **given, embedding_model=model, chunk_overlap=overlap, created_at=now_ms, updated_at=now_ms
        )

    def patched(self, patch: CollectionPatch) -> "Item":
        return self.model_copy(update=patch.model_dump(exclude_unset=True))

    @property
    def making(self) -> Making:
        return Making(**{name: getattr(self, name) for name in Making.model_fields})

    def remade(self, making: Making, now_ms: int) -> "Item":
        return self.model_copy(update={**making.model_dump(), "updated_at": now_ms})


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """A collection as it was read."""

    stored: StoredCollection
    item: Item

    @classmethod
    def of(cls, stored: StoredCollection) -> "CollectionRecord":
        return cls(stored, Item.model_construct(**orjson.loads(stored.item)))

    @property
    def id(self) -> str:
        return self.stored.id

    @property
    def vectors(self) -> str:
        """Their name in the vector store."""
        return place(self.id, self.stored.live)

    @property
    def etag(self) -> str:
        """With its quotes: what people change, then what jobs change."""
        stored = self.stored
        job = f"-{stored.reindex}" if stored.reindex else ""
        return f'"{stored.revision}-{stored.documents}-{stored.chunks}-{stored.bytes}{job}"'

    def matches(self, if_match: str | None) -> bool:
        """Whether an `If-Match` header lets a change through; documents since do not stand in its way."""
        if if_match is None:
            return True
        tags = [tag.strip().removeprefix("W/") for tag in if_match.split(",")]
        return f'"{self.stored.revision}' in [tag.partition("-")[0] for tag in tags if tag.endswith('"')]

    def shown(self) -> dict[str, Any]:
        item, stored = self.item, self.stored
        return {
            "id": self.id,
            "name": item.name,
            "description": item.description,
            "embedding_model": item.embedding_model,
            "chunk_size": item.chunk_size,
            "chunk_overlap": item.chunk_overlap,
            "chunk_unit": item.chunk_unit,
            "metric": item.metric,
            "documents": stored.documents,
            "chunks": stored.chunks,
            "bytes": stored.bytes,
            "created_at": rfc3339(item.created_at),
            "updated_at": rfc3339(item.updated_at),
            "reindex": self._reindex(),
        }

    def _reindex(self) -> dict[str, Any] | None:
        """What the collection is to become, by a job under way."""
        job_id = self.stored.reindex
        if not job_id:
            return None
        links = {"job": f"/v1/rag/jobs/{job_id}"}
        return {"job_id": job_id, **orjson.loads(self.stored.target), "links": links}


def shown_document(document_id: str, entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the manifest as callers see it."""
    return {
        "id": document_id,
        "location": entry["location"],
        "source_location": entry.get("origin") or entry["location"],
        "title": entry["title"],
        "source_type": entry["source_type"],
        "version": entry["version"],
        "chunks": entry["chunks"],
        "bytes": entry["bytes"],
        "metadata": entry["metadata"],
        "job_id": entry["job_id"],
        "updated_at": rfc3339(entry["at"]),
    }
