"""The loop anyone would write, in one process: read, cut, embed, insert. loop.py MILVUS_URL FOLDER"""

import sys
import time
from collections.abc import Iterator
from typing import Any

from common import DIMENSION, chunks, files, model, report
from pymilvus import DataType, Function, FunctionType, MilvusClient

BATCH = 1000
NAME = "loop"


def collection(url: str) -> MilvusClient:
    """Empty, with an index of vectors and one of words."""
    client = MilvusClient(url)
    if client.has_collection(NAME):
        client.drop_collection(NAME)
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.VARCHAR, max_length=64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=4000, enable_analyzer=True)
    schema.add_field("source", DataType.VARCHAR, max_length=256)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=DIMENSION)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(Function("words", FunctionType.BM25, ["text"], ["sparse"]))
    indices = client.prepare_index_params()
    indices.add_index("dense", index_type="AUTOINDEX", metric_type="COSINE")
    indices.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_collection(NAME, schema=schema, index_params=indices)
    return client


def batches(folder: str) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for file in files(folder):
        for number, text in enumerate(chunks(file.read_text())):
            rows.append({"id": f"{file.name}#{number}", "text": text, "source": file.name})
        if len(rows) >= BATCH:
            yield rows
            rows = []
    if rows:
        yield rows


def main(url: str, folder: str) -> None:
    client, embedder = collection(url), model()
    embedder.embed(["warm"])
    began, count = time.perf_counter(), 0
    for rows in batches(folder):
        vectors = embedder.embed([row["text"] for row in rows], norm=True)
        for row, vector in zip(rows, vectors, strict=True):
            row["dense"] = vector
        client.insert(NAME, rows)
        count += len(rows)
    seconds = time.perf_counter() - began
    (found,) = client.query(NAME, filter="", output_fields=["count(*)"])
    report(count, seconds, found["count(*)"])


if __name__ == "__main__":
    main(*sys.argv[1:])
