"""Single pages of the web, and the addresses that are not reached, by pages and crawls."""

import asyncio
import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernel.knowledge.contract import DocumentError, Fetched, SourceError
from kernel.knowledge.sources import Surroundings
from kernel.knowledge.sources import web as pages
from kernel.outbound import Egress
from tests.sites import Page, asked, links, moved, path_of, paths, site, typed
from tests.sources import REFUSED, fetched, listed, opened, surroundings
from tests.unit.test_outbound import self_signed
from tests.web import Exchange, Web, serve

pytestmark = pytest.mark.anyio


async def read(web: Web, path: str = "/", around: Surroundings | None = None) -> Fetched:
    source = opened(around or surroundings(), type="url", location=web.url + path)
    (found,) = await listed(source)
    return await fetched(source, found)


ALONE = "127.0.0.5"
NAMES = {ALONE, "example.com", "single"}
"""Beside it, names that are judged by what they resolve to: `//example.com` is one in a link."""


def alone() -> tuple[Surroundings, set[str]]:
    """Where one address of this machine is all that may be reached, and the hosts that got as far as the resolver."""
    looked_up: set[str] = set()

    async def resolve(host: str, _port: int) -> list[str]:
        looked_up.add(host)
        return [host if host == ALONE else "10.0.0.1"]

    return surroundings(Egress((f"{ALONE}/32",), resolve)), looked_up


class TestOnePage:
    async def test_reads_it(self) -> None:
        async with serve(site({"/a/guide.html?x=1": links("/b")})) as web:
            source = opened(
                surroundings(), type="url", location=f"{web.url}/a/guide.html?x=1#top", metadata={"a": 1}
            )
            (found,) = await listed(source)
            assert web.exchanges == []
            assert (found.location, found.source_type) == (f"{web.url}/a/guide.html?x=1", "url")
            assert (found.version, found.metadata) == (None, {"a": 1})
            data = await fetched(source, found)
            assert (data.data, data.name, data.media_type) == (
                links("/b").encode(),
                "guide.html",
                "text/html",
            )
            assert asked(web) == ["/a/guide.html?x=1"]

    async def test_asks_only_for_what_has_changed(self) -> None:
        async def page(exchange: Exchange) -> None:
            if exchange.header("if-none-match") == '"1"':
                await exchange.answer(304)
            else:
                await exchange.answer(200, b"x", "content-type: text/plain", 'etag: "1"', "last-modified: x")

        async def dated(exchange: Exchange) -> None:
            date = "Mon, 25 Nov 2024 10:00:00 GMT"
            unchanged = exchange.header("if-modified-since") == date
            await exchange.answer(
                304 if unchanged else 200, b"", "content-type: text/plain", f"last-modified: {date}"
            )

        async with serve(site({"/a": page, "/b": dated})) as web:
            for path in ("/a", "/b"):
                source = opened(surroundings(), type="url", location=web.url + path)
                (found,) = await listed(source)
                version = (await fetched(source, found)).version
                assert await source.fetch(replace(found, version=version)) is None
                assert (await fetched(source, replace(found, version="etag other"))).version == version

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            ((404, b"", ()), "answered 404"),
            ((403, b"", ()), "answered 403"),
            ((500, b"", ()), "answered 500"),
            (typed("image/png"), "image/png"),
            (typed("video/mp4", b"x" * 100), "video/mp4"),
            (typed("text/plain", b"x" * 1_000_001), "larger than 1 MB"),
            (typed("application/pdf", b"x" * 1_000_001), "larger than 1 MB"),
            (
                typed("text/html", gzip.compress(bytes(50_000_000)), "content-encoding: gzip"),
                "larger than 1 MB",
            ),
            (typed("text/html", b"not packed", "content-encoding: gzip"), "cannot be unpacked"),
            (typed("text/html", b"x", "content-encoding: br"), "nobody asked for"),
            (moved("/"), "redirects more than 5 times"),
            (moved("http://127.0.0.1:x/"), "no web address"),
            (moved("javascript:alert(1)"), "no web address"),
            (moved(""), "redirects more than 5 times"),
        ],
    )
    async def test_what_is_no_document(self, answer: Page, words: str) -> None:
        async with serve(site({"/": answer})) as web:
            with pytest.raises(DocumentError, match=words):
                await read(web, around=surroundings(max_document_mb=1))

    async def test_a_server_that_is_down(self) -> None:
        source = opened(surroundings(), type="url", location="http://127.0.0.1:1/")
        (found,) = await listed(source)
        with pytest.raises(DocumentError, match="cannot be reached"):
            await source.fetch(found)

    async def test_a_certificate_that_nobody_vouches_for(self, tmp_path: Path) -> None:
        async def resolve(_host: str, _port: int) -> list[str]:
            return ["127.0.0.1"]

        async with serve(site({"/": "secret"}), self_signed(tmp_path)) as web:
            around = surroundings(Egress(("127.0.0.0/8",), resolve))
            source = opened(around, type="url", location=f"https://name.example:{web.port}/")
            (found,) = await listed(source)
            with pytest.raises(DocumentError, match="certificate is not valid"):
                await source.fetch(found)

    async def test_what_breaks_off(self) -> None:
        async def broken(exchange: Exchange) -> None:
            await exchange.send(b"HTTP/1.1 200 X\r\ncontent-type: text/html\r\ncontent-length: 100\r\n\r\nx")
            exchange.reset()

        async with serve(broken) as web:
            with pytest.raises(DocumentError, match="did not answer as it should"):
                await read(web)

    async def test_an_endless_page(self) -> None:
        async def endless(exchange: Exchange) -> None:
            await exchange.send(
                b"HTTP/1.1 200 X\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            while not exchange.closed.is_set():
                await exchange.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")

        async with serve(endless) as web:
            with pytest.raises(DocumentError, match="larger than 1 MB"):
                await read(web, around=surroundings(max_document_mb=1))

    async def test_a_server_that_drips(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def drip(exchange: Exchange) -> None:
            await exchange.send(b"HTTP/1.1 200 X\r\ncontent-type: text/html\r\ncontent-length: 9999\r\n\r\n")
            while not exchange.closed.is_set():
                await exchange.send(b"x")
                await asyncio.sleep(0.01)

        monkeypatch.setattr(pages, "DOCUMENT_S", 0.2)
        async with serve(drip) as web:
            with pytest.raises(DocumentError, match=r"within 0\.2 s"):
                await read(web)

    async def test_unpacks(self) -> None:
        packed = typed("text/html", gzip.compress(b"plain" * 1000), "content-encoding: gzip")
        async with serve(site({"/": packed})) as web:
            assert (await read(web)).data == b"plain" * 1000

    async def test_waits_for_a_busy_server(self) -> None:
        answers = [
            (503, b"", ("retry-after: 0",)),
            (429, b"", ("retry-after: 0",)),
            typed("text/plain", b"x"),
        ]

        async def busy(exchange: Exchange) -> None:
            await site({"/": answers.pop(0)})(exchange)

        async with serve(busy) as web:
            assert (await read(web)).data == b"x"

    async def test_says_the_encoding_that_the_server_says(self) -> None:
        page = typed("text/html; charset=KOI8-R", "Привет".encode("koi8-r"))
        async with serve(site({"/": page})) as web:
            data = await read(web)
            assert (data.data.decode("koi8-r"), data.media_type) == ("Привет", "text/html; charset=koi8-r")

    async def test_follows_a_redirect_to_another_host(self) -> None:
        async with (
            serve(site({"/x.txt": b"there"})) as other,
            serve(site({"/": moved(f"{other.url}/x.txt")})) as web,
        ):
            data = await read(web)
            assert (data.data, data.name) == (b"there", "x.txt")


class TestAddresses:
    """Nothing that is not ours to reach is reached, however it is come by."""

    @pytest.mark.parametrize("url", REFUSED)
    @pytest.mark.parametrize("rules", [{}, {"crawl": {}}])
    async def test_at_the_start(self, url: str, rules: dict[str, Any]) -> None:
        with pytest.raises(SourceError):
            await listed(opened(surroundings(Egress()), type="url", location=url, **rules))

    @pytest.mark.parametrize("url", REFUSED)
    async def test_by_a_redirect(self, url: str) -> None:
        around, looked_up = alone()
        target = url.encode().decode("latin-1")
        async with serve(site({"/": moved(target), "/robots.txt": b""}), host=ALONE) as web:
            with pytest.raises(DocumentError):
                await read(web, around=around)
            if target.startswith("http"):
                with pytest.raises(SourceError, match="cannot be crawled"):
                    await paths(web, around)
        assert looked_up <= NAMES

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_by_each_kind_of_redirect(self, status: int) -> None:
        around, looked_up = alone()
        async with serve(site({"/": moved("http://169.254.169.254/latest", status)}), host=ALONE) as web:
            with pytest.raises(DocumentError, match="not a public one"):
                await read(web, around=around)
        assert looked_up == {ALONE}

    @pytest.mark.parametrize("url", REFUSED)
    @pytest.mark.parametrize("way", ["link", "robots", "named", "index", "page", "sitemap"])
    async def test_by_what_a_site_says(self, way: str, url: str) -> None:
        """A link; a sitemap that robots.txt or an index names, a page in one; where robots.txt or one has moved to."""
        around, looked_up = alone()
        target = url.encode().decode("latin-1")
        files: dict[str, Page] = {
            "link": {"/": links(target)},
            "robots": {"/robots.txt": moved(target)},
            "named": {"/robots.txt": f"Sitemap: {target}".encode()},
            "index": {"/sitemap.xml": f"<x><sitemap><loc>{url}</loc></sitemap></x>".encode()},
            "page": {"/sitemap.xml": f"<x><url><loc>{url}</loc></url></x>".encode()},
            "sitemap": {"/sitemap.xml": moved(target)},
        }[way]
        async with serve(site({"/": links(), **files}), host=ALONE) as web:
            assert await paths(web, around) == ["/"]
        assert looked_up <= NAMES

    async def test_by_everything_that_a_site_says(self) -> None:
        """Links, redirects of pages, of robots.txt and of sitemaps, sitemaps in robots.txt and pages in them."""
        reached: list[str] = []

        async def inside(exchange: Exchange) -> None:
            reached.append(path_of(exchange))
            await exchange.answer(200, b"secret", "content-type: text/plain")

        async with serve(inside) as private:
            secret = f"http://127.0.0.2:{private.port}"
            server = await asyncio.start_server(private.accept, "127.0.0.2", private.port)
            async with server, serve(site(_luring(secret))) as web:
                around = surroundings(Egress(("127.0.0.1/32",)))
                assert await paths(web, around) == ["/"]
                assert "/moved" in asked(web)
                assert reached == []

    async def test_names_are_judged_when_they_are_used(self) -> None:
        answers = {"start.example.com": ["127.0.0.1"], "evil.example.com": ["10.0.0.1"]}

        async def resolve(host: str, _port: int) -> list[str]:
            return answers[host]

        async with serve(site({"/": moved("http://evil.example.com/")})) as web:
            around = surroundings(Egress(("127.0.0.0/8",), resolve))
            source = opened(around, type="url", location=f"http://start.example.com:{web.port}/")
            (found,) = await listed(source)
            with pytest.raises(DocumentError, match="may not be reached"):
                await source.fetch(found)
            answers["start.example.com"] = ["169.254.169.254"]
            with pytest.raises(DocumentError, match="may not be reached"):
                await source.fetch(found)


def _luring(secret: str) -> dict[str, Page]:
    index = f"<sitemapindex><sitemap><loc>{secret}/s.xml</loc></sitemap></sitemapindex>"
    pages_there = f"<urlset><url><loc>{secret}/page</loc></url></urlset>"
    return {
        "/": links(f"{secret}/link", f"{secret}:80/link", "/moved"),
        "/moved": moved(f"{secret}/page"),
        "/robots.txt": f"Sitemap: {secret}/x.xml\nSitemap: /moved\nSitemap: /index.xml\nSitemap: /pages.xml".encode(),
        "/index.xml": index.encode(),
        "/pages.xml": pages_there.encode(),
    }
