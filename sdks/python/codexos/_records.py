"""Rows of tables as documents for a collection, and those in batches that one request can carry.

A row has `text`, and `id` or `location`: the name under which the document is found again and replaced. It may have
`title`, `metadata` and `vector`. What holds such rows: pandas, Arrow, Ray Data, or dictionaries one by one.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

COLUMNS = frozenset({"id", "location", "text", "title", "metadata", "vector"})
MOST_DOCUMENTS = 2_000
MOST_BYTES = 6_000_000
"""Of JSON in one batch; a request may have 8 MB."""

Batch = list[dict[str, Any]]


def is_dataset(data: object) -> bool:
    """Whether it is a Ray Dataset, which is written from where its blocks are."""
    return hasattr(data, "map_batches")


def rows_of(data: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of a pandas DataFrame, a pyarrow Table or RecordBatch, or an iterable of mappings."""
    if hasattr(data, "to_batches"):
        for batch in data.to_batches():
            yield from batch.to_pylist()
    elif hasattr(data, "to_pylist"):
        yield from data.to_pylist()
    elif hasattr(data, "itertuples"):
        names = [str(name) for name in data.columns]
        for values in data.itertuples(index=False, name=None):
            yield dict(zip(names, values, strict=True))
    else:
        yield from data


def document_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ValueError for a row that has no name or text, or columns that documents do not have."""
    if unknown := row.keys() - COLUMNS:
        raise ValueError(f"no such column of documents: {sorted(unknown)}; put it into `metadata`")
    known = {name: plain(value) for name, value in row.items() if not is_nothing(value)}
    names = [known.pop(name, None) for name in ("id", "location")]
    name = next((name for name in names if name is not None), None)
    if name is None or "text" not in known:
        raise ValueError(f"a document needs `text`, and `id` or `location`: this row has {sorted(row)}")
    return {"id": str(name), **known}


def batches(documents: Iterable[dict[str, Any]]) -> Iterator[Batch]:
    batch: Batch = []
    size = 0
    for document in documents:
        weight = len(json.dumps(document, ensure_ascii=False).encode())
        if batch and (len(batch) >= MOST_DOCUMENTS or size + weight > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += weight
    if batch:
        yield batch


def batch_key(batch: Batch) -> str:
    """Always the same for the same documents."""
    return sha256(json.dumps(batch, sort_keys=True).encode()).hexdigest()[:32]


def is_nothing(value: object) -> bool:
    """None, or what pandas writes where there is nothing."""
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ == "NAType"


def plain(value: Any) -> Any:
    """A value of numpy or Arrow as Python's own; structs without the fields that a row does not have."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items() if not is_nothing(one)}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value.isoformat() if hasattr(value, "isoformat") else value
