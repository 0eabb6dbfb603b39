"""What sites ask of who crawls them: the rules of their robots.txt, and the time between two requests."""

import asyncio
from urllib.parse import urlsplit

import httpx2

from kernel.knowledge.contract import DocumentError
from kernel.knowledge.sources import robots
from kernel.knowledge.sources.robots import Robots
from kernel.knowledge.sources.web import AGENT, OffLimits, Reader


def any_type(_media_type: str | None, _name: str) -> bool:
    return True


class Manners:
    """Reads the robots.txt of an origin once. A site without one allows everything; of one whose rules cannot be
    read at the moment, nothing may be asked."""

    def __init__(self) -> None:
        self._known: dict[str, Robots] = {}
        self._reading = asyncio.Lock()
        self._turns = asyncio.Lock()
        self._next = 0.0

    async def rules(self, client: httpx2.AsyncClient, url: str) -> Robots:
        """Raises DocumentError."""
        origin = origin_of(url)
        async with self._reading:
            if origin not in self._known:
                self._known[origin] = Robots(await _read(client, origin), AGENT)
        return self._known[origin]

    async def refusal(self, client: httpx2.AsyncClient, url: str) -> str | None:
        """Why the page may not be asked for, or None. Raises DocumentError."""
        rules = await self.rules(client, url)
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return None if rules.allows(target) else "The site's robots.txt forbids it"

    async def turn(self, client: httpx2.AsyncClient, url: str) -> None:
        """Waits until the site's Crawl-delay has passed since the turn before. Raises DocumentError."""
        rules = await self.rules(client, url)
        if rules.delay:
            async with self._turns:
                now = asyncio.get_running_loop().time()
                await asyncio.sleep(self._next - now)
                self._next = max(now, self._next) + rules.delay


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def _read(client: httpx2.AsyncClient, origin: str) -> str:
    try:
        answer = await Reader(client, robots.MAX_BYTES, takes=any_type).get(f"{origin}/robots.txt")
    except OffLimits:
        return ""
    except DocumentError as error:
        raise DocumentError(f"The robots.txt of {origin} cannot be read: {error}") from None
    if answer.temporary:
        raise DocumentError(f"The robots.txt of {origin} cannot be read: the server answered {answer.status}")
    return answer.body.decode("utf-8", "replace")
