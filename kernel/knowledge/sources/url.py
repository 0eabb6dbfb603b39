"""Pages of the web: one, or those of a site that a crawl finds.

A page's `version` is what its server said to ask again with (ETag, else Last-Modified).
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus

import httpx2

from kernel.knowledge.contract import DocumentError, Fetched, Found, SourceError
from kernel.knowledge.sources.crawl import CONNECTIONS, Crawl, Kept
from kernel.knowledge.sources.formats import readable
from kernel.knowledge.sources.links import canonical, place_of
from kernel.knowledge.sources.manners import Manners
from kernel.knowledge.sources.shapes import CrawlRules, UrlSource
from kernel.knowledge.sources.surroundings import Surroundings
from kernel.knowledge.sources.web import Answer, Reader, validators


class WebPage:
    """The page that somebody named; robots.txt is for crawls, not for this."""

    def __init__(self, entry: UrlSource, around: Surroundings):
        self._entry = entry
        self._around = around

    async def list(self) -> AsyncGenerator[Found]:
        url = _start(self._entry, self._around)
        yield Found(url, url, self._entry.kind, metadata=self._entry.metadata)

    async def fetch(self, found: Found) -> Fetched | None:
        async with self._around.egress.client() as client:
            answer = await Reader(client, self._around.max_bytes).get(
                found.location, validators(found.version)
            )
        return _fetched(answer, self._around)


class Site:
    """The pages that a crawl finds. What it has read of them is kept for a while: `fetch` need not ask again."""

    def __init__(self, entry: UrlSource, rules: CrawlRules, around: Surroundings):
        self._entry, self._rules, self._around = entry, rules, around
        self._kept = Kept()
        self._manners = Manners()
        self._connections = asyncio.Semaphore(CONNECTIONS)

    async def list(self) -> AsyncGenerator[Found]:
        """The handle's `seen` is the version that the crawl saw."""
        start = _start(self._entry, self._around)
        async with (
            self._around.egress.client() as client,
            aclosing(Crawl(client, start, self._rules, self._manners, self._kept).pages()) as pages,
        ):
            async for page in pages:
                yield Found(
                    location=page.url,
                    title=page.title,
                    source_type=self._entry.kind,
                    version=page.version,
                    size=page.size,
                    handle={"seen": page.version},
                    metadata=self._entry.metadata,
                )

    async def fetch(self, found: Found) -> Fetched | None:
        if kept := self._kept.take(found.location):
            return _fetched(kept, self._around)
        async with self._connections, self._around.egress.client() as client:
            return _fetched(await self._read(client, found), self._around)

    async def _read(self, client: httpx2.AsyncClient, found: Found) -> Answer:
        place = place_of(found.location)

        async def refusal(url: str) -> str | None:
            if place_of(url) != place:
                return "It redirects to another site"
            return await self._manners.refusal(client, url)

        await self._manners.turn(client, found.location)
        known = None if found.version == found.handle.get("seen") else found.version
        return await Reader(client, self._around.max_bytes, refusal).get(found.location, validators(known))


def _start(entry: UrlSource, around: Surroundings) -> str:
    """The canonical address. Raises SourceError when it may not be reached."""
    if problem := around.egress.check_url(entry.location):
        raise SourceError(problem)
    url = canonical(entry.location)
    if url is None:
        raise SourceError("The location is no web address")
    return url


def _fetched(answer: Answer, around: Surroundings) -> Fetched | None:
    """Raises DocumentError when the answer is no document."""
    if answer.status == HTTPStatus.NOT_MODIFIED:
        return None
    if answer.status != HTTPStatus.OK:
        raise DocumentError(f"The server answered {answer.status}")
    if not readable(answer.media_type, answer.name):
        raise DocumentError(f"It is {answer.media_type or answer.name}, which holds no text that can be read")
    if not answer.complete or len(answer.body) > around.max_bytes:
        raise DocumentError(f"It is larger than {around.settings.max_document_mb} MB")
    media_type = f"{answer.media_type}; charset={answer.charset}" if answer.charset else answer.media_type
    return Fetched(answer.body, answer.name, media_type, answer.version)
