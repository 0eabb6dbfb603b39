"""Vectors for texts: the seam, and what stands behind it on this machine, at a provider and on a GPU.

Vectors are float32 of unit length. A text that says nothing has a fixed one, since every direction fits it alike.
"""

import asyncio
import base64
import binascii
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, Protocol

import httpx2
import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from kernel.errors import ProviderError
from kernel.models.breaker import Breaker
from kernel.models.failure import Kind, failure
from kernel.models.openai import ATTEMPTS, Endpoint, OpenAIChat, Pace
from kernel.models.seam import Tokens
from kernel.models.wordllama import DIMENSION, table, token_ids
from kernel.outbound import read_body

BATCH_TEXTS = 256
BATCH_BYTES = 400_000
"""Of UTF-8: even at one token for every two bytes, below the 300,000 tokens that OpenAI takes at once."""

CALLS = 4
"""Calls of one caller that are under way at once."""

MAX_ANSWER = 64 * 2**20

_AGAIN = frozenset({Kind.LIMITED, Kind.FAULT, Kind.TIMEOUT})

Vectors = NDArray[np.float32]

Used = Callable[[Tokens], None]
"""Told of the tokens of each call that succeeded, also when a later one fails."""


class Embedder(Protocol):
    dimension: int

    async def embed(self, texts: Sequence[str], used: Used | None = None) -> Vectors:
        """One row for each text, of shape (texts, dimension). Raises ProviderError."""
        ...


def unit(rows: Vectors) -> Vectors:
    """The rows at length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    nothing = lengths < np.finfo(np.float32).tiny
    return np.where(nothing, np.float32(rows.shape[1] ** -0.5), rows / np.where(nothing, 1, lengths))


class LocalEmbedder:
    """The mean of a text's token vectors, by the weights of wordllama, on this machine's processors."""

    dimension = DIMENSION

    async def embed(self, texts: Sequence[str], used: Used | None = None) -> Vectors:
        return await asyncio.to_thread(self.embed_now, texts, used)

    def embed_now(self, texts: Sequence[str], used: Used | None = None) -> Vectors:
        """The same, for who may wait."""
        rows = np.zeros((len(texts), DIMENSION), np.float32)
        count = 0
        for n, ids in enumerate(map(token_ids, texts)):
            count += len(ids)
            if len(ids):
                table().take(ids, axis=0, mode="clip").mean(axis=0, out=rows[n])
        if used:
            used(Tokens(count))
        return unit(rows)


class TransformerEmbedder:
    """A model of the package sentence-transformers, on a GPU where there is one. name: its name on Hugging Face."""

    def __init__(self, name: str, dimension: int):
        self.name, self.dimension = name, dimension
        self._loading = threading.Lock()
        self._model: Any = None

    async def embed(self, texts: Sequence[str], used: Used | None = None) -> Vectors:
        return await asyncio.to_thread(self.embed_now, texts, used)

    def embed_now(self, texts: Sequence[str], used: Used | None = None) -> Vectors:
        """The same, for who may wait. The first call loads the model."""
        with self._loading:
            if self._model is None:
                self._model = self._loaded()
        rows = np.asarray(self._model.encode(list(texts), show_progress_bar=False), np.float32)
        if used:
            used(_estimate(texts))
        return unit(rows.reshape(len(texts), self.dimension))

    def _loaded(self) -> Any:
        try:
            return import_module("sentence_transformers").SentenceTransformer(self.name)
        except ModuleNotFoundError:
            raise failure(
                Kind.REFUSED,
                "transformers",
                f"Model '{self.name}' needs the package 'sentence-transformers': install the extra 'gpu'",
            ) from None


class _Item(BaseModel):
    index: int
    embedding: str | list[float]


class _Usage(BaseModel):
    prompt_tokens: int


class _Answer(BaseModel):
    data: list[_Item]
    usage: _Usage | None = None


class OpenAIEmbedder(OpenAIChat):
    """Embeddings of a provider that speaks OpenAI's HTTP API; what goes wrong with it is treated as in its chats.

    model: the provider's own name. Every vector must have `dimension` numbers.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client: httpx2.AsyncClient,
        breaker: Breaker,
        pace: Pace,
        model: str,
        dimension: int,
    ):
        super().__init__(endpoint, client, breaker, pace)
        self.dimension = dimension
        self._model = model

    async def embed(self, texts: Sequence[str], used: Used | None = None) -> Vectors:
        turns = asyncio.Semaphore(CALLS)
        try:
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(self._batch(batch, turns, used)) for batch in _batches(texts)]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        rows = [call.result() for call in calls]
        return np.concatenate(rows) if rows else np.empty((0, self.dimension), np.float32)

    async def _batch(self, texts: list[str], turns: asyncio.Semaphore, used: Used | None) -> Vectors:
        """Keeps its turn while it waits to try again, so that a provider at its limit is asked less."""
        async with turns:
            attempt = 1
            while True:
                self._admit()
                try:
                    return await self._once(texts, used)
                except ProviderError as exc:
                    self._record(exc)
                    if attempt == ATTEMPTS or exc.details["kind"] not in _AGAIN:
                        raise
                    wait_s = self._backoff(attempt, exc.retry_after)
                await self._pace.sleep(wait_s)
                attempt += 1

    async def _once(self, texts: list[str], used: Used | None) -> Vectors:
        with self._translated():
            async with asyncio.timeout(self._pace.patience.first_byte_s):
                response = await self._client.send(self._embedding_request(texts), stream=True)
                try:
                    if response.status_code != 200:
                        raise await self._refusal(response)
                    body = await read_body(response, MAX_ANSWER)
                finally:
                    await response.aclose()
        answer = self._understood(body.data)
        rows = self._rows(answer, len(texts))
        self._breaker.succeeded()
        if used:
            used(Tokens(answer.usage.prompt_tokens) if answer.usage else _estimate(texts))
        return rows

    def _embedding_request(self, texts: list[str]) -> httpx2.Request:
        """Asks for base64, a quarter of the size; a provider that knows only numbers may send these."""
        endpoint = self._endpoint
        headers = {"accept": "application/json", "content-type": "application/json"}
        if endpoint.key:
            headers["authorization"] = f"Bearer {endpoint.key}"
        body = orjson.dumps({"model": self._model, "input": texts, "encoding_format": "base64"})
        return self._client.build_request(
            "POST", endpoint.base_url.rstrip("/") + "/embeddings", content=body, headers=headers
        )

    def _understood(self, body: bytes) -> _Answer:
        try:
            return _Answer.model_validate_json(body)
        except ValidationError as exc:
            raise self._failure(Kind.MALFORMED, "sent something that is no list of embeddings") from exc

    def _rows(self, answer: _Answer, count: int) -> Vectors:
        items = sorted(answer.data, key=lambda item: item.index)
        if [item.index for item in items] != list(range(count)):
            raise self._failure(Kind.MALFORMED, f"sent {len(items)} embeddings for {count} texts")
        rows = [self._row(item.embedding) for item in items]
        if wrong := next((len(row) for row in rows if len(row) != self.dimension), None):
            raise self._failure(
                Kind.MALFORMED, f"sent {wrong} numbers for '{self._model}', which has {self.dimension}"
            )
        found = np.stack(rows)
        if not np.isfinite(found).all():
            raise self._failure(Kind.MALFORMED, "sent an embedding that is not of numbers")
        return unit(found)

    def _row(self, embedding: str | list[float]) -> Vectors:
        try:
            if isinstance(embedding, str):
                return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
            return np.array(embedding, np.float32)
        except (binascii.Error, ValueError) as exc:
            raise self._failure(Kind.MALFORMED, "sent an embedding that cannot be read") from exc


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if batch and (len(batch) == BATCH_TEXTS or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def _estimate(texts: Sequence[str]) -> Tokens:
    """At four bytes of UTF-8 a token, for what sends no counts."""
    return Tokens(-(-sum(len(text.encode()) for text in texts) // 4))
