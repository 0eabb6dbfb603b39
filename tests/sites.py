"""Small sites for tests of what reads them, and what was asked of them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kernel.knowledge.contract import Source
from kernel.knowledge.sources import Surroundings
from tests.sources import listed, opened, surroundings
from tests.web import Exchange, Web

Page = str | bytes | tuple[int, bytes, tuple[str, ...]] | Callable[[Exchange], Awaitable[None]]
"""HTML, or a text, or status, body and headers, or what answers by itself."""


def site(files: Mapping[str, Page]) -> Callable[[Exchange], Awaitable[None]]:
    """Answers with 404 what is not in `files`, by path and query."""

    async def answer(exchange: Exchange) -> None:
        page = files.get(path_of(exchange), (404, b"", ()))
        if isinstance(page, str):
            await exchange.answer(200, page.encode(), "content-type: text/html")
        elif isinstance(page, bytes):
            await exchange.answer(200, page, "content-type: text/plain")
        elif isinstance(page, tuple):
            await exchange.answer(page[0], page[1], *page[2])
        else:
            await page(exchange)

    return answer


def path_of(exchange: Exchange) -> str:
    return exchange.head.split(" ")[1]


def asked(web: Web) -> list[str]:
    return [path_of(exchange) for exchange in web.exchanges]


def moved(to: str, status: int = 302) -> Page:
    return status, b"", (f"location: {to}",)


def typed(media_type: str, body: bytes = b"x", *headers: str) -> Page:
    return 200, body, (f"content-type: {media_type}", *headers)


def links(*targets: str) -> str:
    return "<title>Page</title>" + "".join(f'<a href="{target}">x</a>' for target in targets)


def crawled(web: Web, around: Surroundings | None = None, start: str = "/", **rules: Any) -> Source:
    return opened(around or surroundings(), type="url", location=web.url + start, crawl=rules)


async def paths(web: Web, around: Surroundings | None = None, start: str = "/", **rules: Any) -> list[str]:
    found = await listed(crawled(web, around, start, **rules))
    return [one.location.removeprefix(web.url) for one in found]
