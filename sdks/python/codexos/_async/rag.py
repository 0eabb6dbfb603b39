from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codexos._async.collections import AsyncCollections
from codexos._async.jobs import AsyncJobs
from codexos._async.transport import AsyncTransport
from codexos._call import Call, given, value_of
from codexos.types.rag import SearchMode, SearchResults


class AsyncRag:
    def __init__(self, transport: AsyncTransport):
        self._transport = transport
        self.collections = AsyncCollections(transport)
        self.jobs = AsyncJobs(transport)

    async def search(
        self,
        query: str,
        *,
        collection_ids: Sequence[str] | None = None,
        top_k: int | None = None,
        filters: Mapping[str, Any] | None = None,
        mode: SearchMode | None = None,
        rerank: bool | str | None = None,
        min_score: float | None = None,
    ) -> SearchResults:
        """In several collections, by default in all that the key reaches. For the rest see `collection.search`."""
        body = given(query=query, collection_ids=collection_ids, top_k=top_k, filters=filters, mode=mode)
        body |= given(rerank=rerank, min_score=min_score)
        response = await self._transport.send(Call("POST", "/rag/search", json=body, reads=True))
        return SearchResults.read(value_of(response))
