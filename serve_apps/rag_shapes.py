"""What the API answers about collections, documents and searches, for its OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_apps.shapes import MOMENT, PageShape, Time

OPEN = ConfigDict(extra="allow")
COLLECTION = "col_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
DOCUMENT = "doc_3V8N2QK5V9W3M7N6P1R8SXJ4T2"
CHUNK = f"{DOCUMENT}.9f86d081884c7d65.0"


class ReindexShape(BaseModel):
    """What the collection is to become, when the job has completed; cancelled or failed, it stays as it is."""

    job_id: str = Field(examples=["job_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
    embedding_model: str = Field(examples=["wordllama-256"])
    chunk_size: int = Field(examples=[500])
    chunk_overlap: int = Field(examples=[100])
    chunk_unit: Literal["characters", "tokens"]
    metric: Literal["cosine", "ip", "l2"]
    links: dict[str, str] = Field(examples=[{"job": "/v1/rag/jobs/job_01JZ8XJ4T2QK5V9W3M7N6P1R8S"}])


class CollectionShape(BaseModel):
    model_config = OPEN

    id: str = Field(examples=[COLLECTION])
    name: str = Field(examples=["my-docs"])
    description: str = Field(examples=["Product documentation"])
    embedding_model: str = Field(examples=["text-embedding-ada-002"])
    chunk_size: int = Field(examples=[1000])
    chunk_overlap: int = Field(examples=[200])
    chunk_unit: Literal["characters", "tokens"]
    metric: Literal["cosine", "ip", "l2"]
    documents: int = Field(examples=[120])
    chunks: int = Field(examples=[960])
    bytes: int = Field(description="of the documents as they were fetched", examples=[845_210])
    created_at: Time
    updated_at: Time
    reindex: ReindexShape | None = Field(
        None, description="while its vectors are made anew: how, and by which job", examples=[None]
    )


class CollectionPage(PageShape):
    collections: list[CollectionShape]


class DocumentShape(BaseModel):
    model_config = OPEN

    id: str = Field(description="always the same for the same location", examples=[DOCUMENT])
    location: str = Field(
        description="what it is known by; of an upload the file's name",
        examples=["https://docs.example.com/auth"],
    )
    source_location: str = Field(
        description="the same; of an upload its id", examples=["https://docs.example.com/auth"]
    )
    title: str = Field(examples=["Authentication"])
    source_type: str = Field(examples=["documentation"])
    version: str = Field(description="another one each time it is taken in", examples=["9f86d081884c7d65"])
    chunks: int = Field(examples=[8])
    bytes: int = Field(examples=[7_312])
    metadata: dict[str, Any] = Field(examples=[{"team": "web"}])
    job_id: str = Field(description="the job that took it in", examples=["job_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
    updated_at: Time = Field(description="when it was taken in", examples=[MOMENT])


class DocumentPage(PageShape):
    documents: list[DocumentShape]


class VectorStats(BaseModel):
    dimension: int = Field(examples=[1536])
    metric: Literal["cosine", "ip", "l2"]
    rows: int = Field(
        description="chunks that are stored, those that are to be deleted included", examples=[960]
    )
    keyword_search: bool = Field(description="whether the vector store can search by words")


class CollectionStats(BaseModel):
    model_config = OPEN

    collection_id: str = Field(examples=[COLLECTION])
    documents: int = Field(examples=[120])
    chunks: int = Field(examples=[960])
    bytes: int = Field(examples=[845_210])
    source_types: dict[str, int] = Field(description="documents of each", examples=[{"documentation": 120}])
    vectors: VectorStats


class Scores(BaseModel):
    dense: float | None = Field(
        description="likeness by the collection's metric; null: not found this way", examples=[0.83]
    )
    keyword: float | None = Field(description="BM25; null: not found this way", examples=[4.21])


class Result(BaseModel):
    model_config = OPEN

    chunk_id: str = Field(examples=[CHUNK])
    document_id: str = Field(examples=[DOCUMENT])
    text: str = Field(examples=["Users are authenticated with a key in the Authorization header."])
    score: float = Field(
        description="0 to 1. `dense`: the likeness. `keyword`: BM25 / (BM25 + 1). `hybrid`: how near it comes to the "
        "best both ways, 1 for what is the best both ways. With `rerank`: what that model says.",
        examples=[0.97],
    )
    scores: Scores
    metadata: dict[str, Any] = Field(
        description="the document's own, and where the chunk is from",
        examples=[
            {
                "source_type": "documentation",
                "location": "https://docs.example.com/auth",
                "title": "Authentication",
                "page": None,
                "heading": "Keys",
                "offset": 1800,
            }
        ],
    )


class SearchAnswer(BaseModel):
    model_config = OPEN

    results: list[Result] = Field(description="best first")
    took_ms: int = Field(examples=[12])
    mode_used: Literal["hybrid", "dense", "keyword"] | None = Field(
        None, description="where the vector store could not search as asked"
    )


class CollectionResult(Result):
    collection_id: str = Field(examples=[COLLECTION])


class CollectionsAnswer(SearchAnswer):
    results: list[CollectionResult] = Field(  # type: ignore[assignment]  # each tells its collection too
        description="best first; `score` is how far up it stands in its own collection"
    )
