"""A chunk as a row of Milvus: its fields and indices, and the way of rows there and back."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kernel.storage.chunks import Condition, Hit, Metric, Row

BATCH_ROWS = 500
BATCH_BYTES = 2_000_000
LONGEST = 65_535
"""Bytes of a text that a field holds."""
SHOWN = [
    *("chunk_id", "document_id", "version", "position", "text"),
    *("source_type", "location", "title", "page", "heading", "offset", "metadata"),
]


def either(versions: Sequence[tuple[str, str]]) -> Condition:
    """Rows of any of these versions of documents: pairs of document id and version."""
    values = {f"p{n}": part for n, part in enumerate(part for pair in versions for part in pair)}
    each = (f"(document_id == {{p{2 * n}}} and version == {{p{2 * n + 1}}})" for n, _ in enumerate(versions))
    return Condition(" or ".join(each), values)


def batches(rows: Iterable[Row]) -> Iterator[list[dict[str, Any]]]:
    """Rows as Milvus takes them, as many as a message may have."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(_fields(row))
        size += 4 * len(row.vector) + len(row.chunk.text)
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _fields(row: Row) -> dict[str, Any]:
    chunk = row.chunk
    return {
        "chunk_id": row.chunk_id,
        "document_id": row.document_id,
        "version": row.version,
        "position": chunk.position,
        "text": _fit(chunk.text),
        "source_type": _fit(row.source_type),
        "location": _fit(row.location),
        "title": _fit(row.title),
        "page": chunk.page or 0,
        "offset": chunk.offset,
        "heading": _fit(chunk.heading or ""),
        "metadata": dict(row.metadata),
        "dense": row.vector,
    }


def _fit(text: str) -> str:
    """What of a text a field can hold: half characters cannot be stored."""
    return text.encode(errors="replace")[:LONGEST].decode(errors="ignore")


def hit(entity: Mapping[str, Any], score: float) -> Hit:
    """From the fields `SHOWN`."""
    fields = {name: entity[name] for name in SHOWN}
    return Hit(**fields | {"page": entity["page"] or None, "heading": entity["heading"] or None}, score=score)


PROBES = [
    {
        **dict.fromkeys(("document_id", "version", "text"), "probe"),
        **dict.fromkeys(("source_type", "location", "title", "heading"), ""),
        **dict.fromkeys(("position", "offset"), 0),
        **{"chunk_id": str(page), "page": page, "metadata": metadata, "dense": [1.0] * 8},
    }
    for page, metadata in enumerate(({}, *({"a": value} for value in ("x%x", 1, [1], {"b": 1}, False))))
]
"""Told apart by `page`."""


def schema(dimension: int, keyword: bool) -> Any:
    """keyword: with what a search by words needs."""
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("chunk_id", DataType.VARCHAR, is_primary=True, max_length=128)
    for name in ("document_id", "version", "source_type", "location", "title", "heading"):
        schema.add_field(name, DataType.VARCHAR, max_length=LONGEST)
    for name in ("position", "page", "offset"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dimension)
    analyzed = {"enable_analyzer": True} if keyword else {}
    schema.add_field("text", DataType.VARCHAR, max_length=LONGEST, **analyzed)
    if keyword:
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("words", FunctionType.BM25, ["text"], ["sparse"]))
    return schema


def indices(metric: Metric, keyword: bool) -> dict[str, Any]:
    """By field."""
    from pymilvus import MilvusClient

    kinds = {"dense": {"index_type": "AUTOINDEX", "metric_type": metric.upper()}}
    if keyword:
        kinds["sparse"] = {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "BM25"}
    return {name: MilvusClient.prepare_index_params(name, **kind) for name, kind in kinds.items()}
