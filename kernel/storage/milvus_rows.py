"""A chunk as a row of Milvus: its fields and indices, and the way of rows there and back."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from kernel.storage.chunks import Condition, Hit, Kept, Metric, Row

BATCH_ROWS = 1_000
"""For each batch of an upsert Milvus Lite looks at all rows there are: 3 ms for 1,000. Searches wait meanwhile."""
BATCH_BYTES = 2_000_000
LONGEST = 65_535
"""Bytes of a text that a field holds."""
SHOWN = [
    *("chunk_id", "document_id", "version", "position", "text"),
    *("source_type", "location", "title", "page", "heading", "offset", "metadata"),
]
KEPT = ["chunk_id", "position", "text", "page", "heading", "offset", "seam"]


def either(versions: Sequence[tuple[str, str]]) -> Condition:
    """Rows of any of these versions of documents: pairs of document id and version."""
    values = {f"p{n}": part for n, part in enumerate(part for pair in versions for part in pair)}
    each = (f"(document_id == {{p{2 * n}}} and version == {{p{2 * n + 1}}})" for n, _ in enumerate(versions))
    return Condition(" or ".join(each), values)


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """As many at once as a message may have."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += 4 * len(row.vector) + len(row.chunk.text)
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def upsert_of(name: str, rows: Sequence[Row]) -> Any:
    """Milvus's own message that writes these rows, made field by field: row by row, as pymilvus makes it from dicts,
    takes five times as long."""
    from pymilvus.grpc_gen.milvus_pb2 import UpsertRequest

    return UpsertRequest(collection_name=name, num_rows=len(rows), fields_data=list(_columns(rows)))


def _columns(rows: Sequence[Row]) -> Iterator[Any]:
    """Every field of `schema` that is not Milvus's to fill."""
    from pymilvus.grpc_gen import schema_pb2 as of

    def scalar(name: str, kind: Any, **values: Any) -> Any:
        return of.FieldData(field_name=name, type=kind, scalars=of.ScalarField(**values))

    def texts(name: str, values: list[str]) -> Any:
        return scalar(name, of.VarChar, string_data=of.StringArray(data=values))

    def numbers(name: str, values: list[int]) -> Any:
        return scalar(name, of.Int64, long_data=of.LongArray(data=values))

    chunks = [row.chunk for row in rows]
    for name in ("chunk_id", "document_id", "version"):
        yield texts(name, [getattr(row, name) for row in rows])
    for name in ("source_type", "location", "title"):
        yield texts(name, [_fit(getattr(row, name)) for row in rows])
    yield texts("text", [_fit(chunk.text) for chunk in chunks])
    yield texts("heading", [_fit(chunk.heading or "") for chunk in chunks])
    yield texts("seam", [chunk.seam for chunk in chunks])
    yield numbers("position", [chunk.position for chunk in chunks])
    yield numbers("page", [chunk.page or 0 for chunk in chunks])
    yield numbers("offset", [chunk.offset for chunk in chunks])
    metadata = [orjson.dumps(row.metadata) for row in rows]
    yield scalar("metadata", of.JSON, json_data=of.JSONArray(data=metadata))
    flat = [number for row in rows for number in _listed(row.vector)]
    dense = of.VectorField(dim=len(rows[0].vector), float_vector=of.FloatArray(data=flat))
    yield of.FieldData(field_name="dense", type=of.FloatVector, vectors=dense)


def _listed(vector: Any) -> list[float]:
    """From an array of numpy several times as quick as by iteration."""
    found: list[float] = vector.tolist() if hasattr(vector, "tolist") else vector
    return found


def _fit(text: str) -> str:
    """What of a text a field can hold: half characters cannot be stored."""
    return text.encode(errors="replace")[:LONGEST].decode(errors="ignore")


def hit(entity: Mapping[str, Any], score: float) -> Hit:
    """From the fields `SHOWN`."""
    fields = {name: entity[name] for name in SHOWN}
    return Hit(**fields | {"page": entity["page"] or None, "heading": entity["heading"] or None}, score=score)


def kept(entity: Mapping[str, Any]) -> Kept:
    """From the fields `KEPT`, and perhaps `dense`."""
    return Kept(
        position=entity["position"],
        text=entity["text"],
        offset=entity["offset"],
        page=entity["page"] or None,
        heading=entity["heading"] or None,
        seam=entity["seam"],
        vector=array("f", entity.get("dense", ())),
    )


PROBES = [
    {
        **dict.fromkeys(("document_id", "version", "text"), "probe"),
        **dict.fromkeys(("source_type", "location", "title", "heading", "seam"), ""),
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
    for name in ("document_id", "version", "source_type", "location", "title", "heading", "seam"):
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
