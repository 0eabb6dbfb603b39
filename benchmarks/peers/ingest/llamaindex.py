"""LlamaIndex' IngestionPipeline: its splitter, our model, its Milvus store. llamaindex.py MILVUS_URL FOLDER WORKERS

In its favour: batches of 256 to embed and 1,000 to insert, where its defaults are 10 and 100.
"""

import sys
import time
from functools import lru_cache
from typing import Any

from common import DIMENSION, OVERLAP, SIZE, files, model, report
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, Document, TransformComponent
from llama_index.vector_stores.milvus import MilvusVectorStore
from llama_index.vector_stores.milvus.utils import BM25BuiltInFunction

NAME = "llamaindex"
_model = lru_cache(maxsize=1)(model)


@lru_cache(maxsize=1)
def _splitter() -> SentenceSplitter:
    return SentenceSplitter(chunk_size=SIZE, chunk_overlap=OVERLAP, tokenizer=list)


class Split(TransformComponent):
    """By characters. The splitter itself loses a tokenizer of ours on its way to a worker."""

    def __call__(self, nodes: list[BaseNode], **_: Any) -> list[BaseNode]:
        return _splitter()(nodes)


class Words(BaseEmbedding):
    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _model().embed(texts, norm=True).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def document(name: str, text: str) -> Document:
    """Only the text is embedded, as everywhere else."""
    kept = ["source"]
    return Document(
        text=text,
        id_=name,
        metadata={"source": name},
        excluded_embed_metadata_keys=kept,
        excluded_llm_metadata_keys=kept,
    )


def main(url: str, folder: str, workers: str) -> None:
    store = MilvusVectorStore(
        uri=url,
        collection_name=NAME,
        dim=DIMENSION,
        overwrite=True,
        batch_size=1000,
        similarity_metric="COSINE",
        enable_sparse=True,
        sparse_embedding_function=BM25BuiltInFunction(),
        use_async_client=False,
        index_config={"index_type": "AUTOINDEX"},
    )
    steps = [Split(), Words(model_name="wordllama", embed_batch_size=256)]
    pipeline = IngestionPipeline(transformations=steps, vector_store=store)
    began = time.perf_counter()
    documents = [document(file.name, file.read_text()) for file in files(folder)]
    many = int(workers) if int(workers) > 1 else None
    nodes = pipeline.run(documents=documents, num_workers=many, show_progress=False)
    seconds = time.perf_counter() - began
    (found,) = store.client.query(NAME, filter="", output_fields=["count(*)"])
    report(len(nodes), seconds, found["count(*)"])


if __name__ == "__main__":
    main(*sys.argv[1:])
