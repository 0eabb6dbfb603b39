"""A crawl: the pages of a site, nearest first, each asked for once, found as the caller takes them.

It asks for few pages ahead of the one that is taken, so what waits is bounded: `max_pages` addresses, a few
pages on the wire, and the pages in `Kept`.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

import httpx2

from kernel.knowledge.contract import DocumentError, SourceError
from kernel.knowledge.sources.formats import readable
from kernel.knowledge.sources.globs import Globs
from kernel.knowledge.sources.links import Place, canonical, links_of, place_of, text_of, title_of
from kernel.knowledge.sources.manners import Manners, any_type, origin_of
from kernel.knowledge.sources.shapes import MAX_LOCATION, CrawlRules
from kernel.knowledge.sources.sitemap import MAX_BYTES as SITEMAP_BYTES
from kernel.knowledge.sources.sitemap import Sitemap, read_sitemap
from kernel.knowledge.sources.web import HTML, Answer, OffLimits, Reader, unzipped

CONNECTIONS = 4
"""Pages of one site that are asked for at once."""
PAGE_BYTES = 4_000_000
"""Read of a page while looking for links."""
KEPT_BYTES = 32_000_000
MAX_SITEMAPS = 1_000
GZIP = b"\x1f\x8b"


class Kept:
    """The newest pages that the crawl has read, until they are fetched."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._bytes = 0

    def put(self, answer: Answer) -> None:
        self.take(answer.url)
        self._answers[answer.url] = answer
        self._bytes += len(answer.body)
        while self._bytes > KEPT_BYTES:
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= len(oldest.body)

    def take(self, url: str) -> Answer | None:
        answer = self._answers.pop(url, None)
        self._bytes -= len(answer.body) if answer else 0
        return answer


class Frontier:
    """The addresses that wait, each once, and at most `most` ever."""

    def __init__(self, place: Place, globs: Globs, most: int):
        self._place, self._globs, self._left = place, globs, most
        self._seen: set[str] = set()
        self._waiting: deque[tuple[str, int]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def left(self) -> int:
        """How many more it takes."""
        return self._left

    def add(self, urls: Iterable[str], depth: int) -> None:
        """Those of this site that the rules take."""
        for url in urls:
            if self._left > 0 and url not in self._seen and self.takes(url):
                self._seen.add(url)
                self._waiting.append((url, depth))
                self._left -= 1

    def takes(self, url: str) -> bool:
        return (
            len(url) <= MAX_LOCATION
            and place_of(url) == self._place
            and self._globs.takes(unquote(urlsplit(url).path))
        )

    def is_new(self, url: str) -> bool:
        """Whether it was not seen before; from now on it is."""
        new = url not in self._seen
        self._seen.add(url)
        return new

    def pop(self) -> tuple[str, int]:
        return self._waiting.popleft()


@dataclass(frozen=True, slots=True)
class Page:
    """A document of the site. size: bytes; None when it was not read to its end."""

    url: str
    title: str
    version: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """What came of an address: url after redirects; page is None when it is no document."""

    asked: str
    url: str
    depth: int
    page: Page | None = None
    links: list[str] = field(default_factory=list)


class Crawl:
    """One walk over the site of `start`, a canonical address."""

    def __init__(
        self, client: httpx2.AsyncClient, start: str, rules: CrawlRules, manners: Manners, kept: Kept
    ):
        self._client, self._start, self._rules = client, start, rules
        self._manners, self._kept = manners, kept
        self._reader = Reader(client, PAGE_BYTES, self._refusal)
        self._place: Place | None = None

    async def pages(self) -> AsyncGenerator[Page]:
        """Raises SourceError when the start or a sitemap cannot be read."""
        first = await self._first()
        self._place = place_of(first.url)
        globs = Globs(self._rules.include, self._rules.exclude)
        frontier = Frontier(self._place, globs, self._rules.max_pages - 1)
        frontier.is_new(self._start)
        if page := _taken(frontier, first):
            yield page
        if self._rules.sitemap and self._rules.depth:
            await self._add_sitemaps(frontier, first.url)
        async with aclosing(self._visits(frontier)) as visits:
            async for visit in visits:
                if page := _taken(frontier, visit):
                    yield page

    async def _first(self) -> Visit:
        try:
            await self._manners.turn(self._client, self._start)
            answer = await self._reader.get(self._start)
        except DocumentError as error:
            raise SourceError(f"{self._start} cannot be crawled. {error}") from None
        if answer.status != HTTPStatus.OK:
            raise SourceError(f"{self._start} cannot be crawled. The server answered {answer.status}")
        return self._visited(self._start, 0, answer)

    async def _refusal(self, url: str) -> str | None:
        if self._place and place_of(url) != self._place:
            return "It redirects to another site"
        return await self._manners.refusal(self._client, url)

    async def _visits(self, frontier: Frontier) -> AsyncGenerator[Visit]:
        """In the order of the frontier, which may grow meanwhile."""
        flying: deque[asyncio.Task[Visit]] = deque()
        try:
            while frontier or flying:
                while frontier and len(flying) < CONNECTIONS:
                    flying.append(asyncio.create_task(self._visit(*frontier.pop())))
                visit = await flying[0]
                flying.popleft()
                yield visit
        finally:
            for task in flying:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)

    async def _visit(self, url: str, depth: int) -> Visit:
        """A page that fails for the moment is one all the same, so that it is not taken for gone."""
        try:
            await self._manners.turn(self._client, url)
            answer = await self._reader.get(url)
        except OffLimits:
            return Visit(url, url, depth)
        except DocumentError:
            return Visit(url, url, depth, Page(url, url))
        return (
            Visit(url, url, depth, Page(url, url)) if answer.temporary else self._visited(url, depth, answer)
        )

    def _visited(self, asked: str, depth: int, answer: Answer) -> Visit:
        if answer.status != HTTPStatus.OK or not readable(answer.media_type, answer.name):
            return Visit(asked, answer.url, depth)
        if answer.complete:
            self._kept.put(answer)
        text = text_of(answer.body, answer.charset) if answer.media_type in HTML else ""
        links = links_of(text, answer.url) if depth < self._rules.depth else []
        size = len(answer.body) if answer.complete else None
        return Visit(
            asked,
            answer.url,
            depth,
            Page(answer.url, title_of(text) or answer.url, answer.version, size),
            links,
        )

    async def _add_sitemaps(self, frontier: Frontier, start: str) -> None:
        """The pages of the sitemaps that robots.txt names, else of the usual one."""
        rules = await self._manners.rules(self._client, start)
        waiting = deque(rules.sitemaps[:MAX_SITEMAPS] or [f"{origin_of(start)}/sitemap.xml"])
        read: set[str] = set()
        while waiting and frontier.left:
            url = canonical(waiting.popleft())
            if url is None or url in read:
                continue
            read.add(url)
            sitemap = await self._sitemap(url)
            frontier.add(filter(None, map(canonical, sitemap.pages)), 1)
            waiting.extend(sitemap.sitemaps[: max(0, MAX_SITEMAPS - len(read) - len(waiting))])

    async def _sitemap(self, url: str) -> Sitemap:
        """Raises SourceError when it cannot be read now: without it, pages would look as if they were gone."""
        try:
            answer = await Reader(self._client, SITEMAP_BYTES, takes=any_type).get(url)
        except OffLimits:
            return Sitemap([], [])
        except DocumentError as error:
            raise SourceError(f"The sitemap {url} cannot be read. {error}") from None
        if answer.temporary:
            raise SourceError(f"The sitemap {url} cannot be read. The server answered {answer.status}")
        data = unzipped(answer.body, SITEMAP_BYTES) if answer.body.startswith(GZIP) else answer.body
        return await asyncio.to_thread(read_sitemap, data)


def _taken(frontier: Frontier, visit: Visit) -> Page | None:
    """The page, if it is a new one for the rules; what it links to waits from now on."""
    if visit.url != visit.asked and not frontier.is_new(visit.url):
        return None
    frontier.add(visit.links, visit.depth + 1)
    return visit.page if frontier.takes(visit.url) else None
