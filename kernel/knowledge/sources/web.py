"""One GET at a time through the guard: bounded in time and bytes, unpacked in bounds, each redirect judged anew."""

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

import httpx2

from kernel.knowledge.contract import DocumentError
from kernel.knowledge.sources.formats import readable
from kernel.knowledge.sources.links import joined
from kernel.outbound import BlockedAddress

AGENT = "CodexOS"
"""The name that rules in a robots.txt are for."""
DOCUMENT_S = 120.0
"""For one address, its redirects included."""
HOPS = 5
TRIES = 3
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
WAIT_S, MAX_WAIT_S = 1.0, 10.0
"""Between two tries when the server is busy: what it asks for, within bounds."""
HTML = frozenset({"text/html", "application/xhtml+xml"})

_HEADERS = {"accept": "text/html, application/xhtml+xml, */*;q=0.8", "accept-encoding": "gzip"}
_MOVED = (301, 302, 303, 307, 308)
_ETAG, _MODIFIED = "etag ", "modified "
_VALIDATOR = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,254}")

Allowed = Callable[[str], Awaitable[str | None]]
"""Why an address may not be asked for, or None. May raise DocumentError."""
Takes = Callable[[str | None, str], bool]
"""Whether what has this media type and name is read."""


class OffLimits(DocumentError):
    """The address, or one that it redirects to, is not asked for at all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """url: after redirects. version: for `validators`. body: unpacked; its begin, or nothing, when not `complete`.
    wait_s: before the next try."""

    url: str
    status: int
    media_type: str | None
    charset: str | None
    version: str | None
    wait_s: float
    body: bytes = b""
    complete: bool = False

    @property
    def name(self) -> str:
        """As a file."""
        return name_of(self.url)

    @property
    def temporary(self) -> bool:
        """Whether it is about this moment, not about the page."""
        return self.status in BUSY or self.status >= 500


async def anywhere(_url: str) -> None:
    """The guard alone decides."""


@dataclass(frozen=True, slots=True)
class Reader:
    client: httpx2.AsyncClient
    max_bytes: int
    allowed: Allowed = anywhere
    takes: Takes = readable

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Raises OffLimits, and DocumentError when there is no answer."""
        try:
            async with asyncio.timeout(DOCUMENT_S):
                return await self._patient(url, _HEADERS | dict(headers or {}))
        except TimeoutError:
            raise DocumentError(f"The server did not send it within {DOCUMENT_S:g} s") from None

    async def _patient(self, url: str, headers: Mapping[str, str]) -> Answer:
        answer = await self._followed(url, headers)
        for _ in range(TRIES - 1):
            if answer.status not in BUSY:
                break
            await asyncio.sleep(answer.wait_s)
            answer = await self._followed(url, headers)
        return answer

    async def _followed(self, url: str, headers: Mapping[str, str]) -> Answer:
        for _ in range(HOPS + 1):
            if problem := await self.allowed(url):
                raise OffLimits(problem)
            answer = await self._exchange(url, headers)
            if isinstance(answer, Answer):
                return answer
            url = answer
        raise OffLimits(f"The server redirects more than {HOPS} times")

    async def _exchange(self, url: str, headers: Mapping[str, str]) -> Answer | str:
        """The answer, or the address that it redirects to."""
        try:
            async with self.client.stream("GET", url, headers=headers) as response:
                if response.status_code in _MOVED:
                    return _moved(url, response)
                return await self._answer(url, response)
        except BlockedAddress as error:
            raise OffLimits(error.message) from None
        except httpx2.InvalidURL:
            raise OffLimits("It is no web address") from None
        except httpx2.HTTPError as error:
            raise DocumentError(_said(error)) from None

    async def _answer(self, url: str, response: httpx2.Response) -> Answer:
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower() or None
        body, complete = b"", False
        if response.status_code == HTTPStatus.OK and self.takes(media_type, name_of(url)):
            body, complete = await self._body(response, media_type)
        return Answer(
            url=url,
            status=response.status_code,
            media_type=media_type,
            charset=response.charset_encoding,
            version=_version(response),
            wait_s=_wait(response.headers.get("retry-after", "")),
            body=body,
            complete=complete,
        )

    async def _body(self, response: httpx2.Response, media_type: str | None) -> tuple[bytes, bool]:
        """What is too long is read to the limit only where a begin is of use."""
        length = response.headers.get("content-length", "")
        too_long = length.isdigit() and len(length) < 20 and int(length) > self.max_bytes
        if too_long and not (media_type or "").startswith("text/"):
            return b"", False
        return await _unpacked(response, self.max_bytes)


def validators(version: str | None) -> dict[str, str]:
    """The headers that ask for a page only if it is another than this `version`."""
    if version and version.startswith(_ETAG):
        return {"if-none-match": version.removeprefix(_ETAG)}
    if version and version.startswith(_MODIFIED):
        return {"if-modified-since": version.removeprefix(_MODIFIED)}
    return {}


def unzipped(data: bytes, most: int) -> bytes:
    """The begin of what gzip packed; nothing when it is broken."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, most)
    except zlib.error:
        return b""


def name_of(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2]) or "index.html"


async def _unpacked(response: httpx2.Response, most: int) -> tuple[bytes, bool]:
    unpack = _unpacker(response.headers.get("content-encoding", "").strip().lower())
    data = bytearray()
    async for chunk in response.aiter_raw():
        try:
            data += unpack(chunk, most + 1 - len(data))
        except zlib.error:
            raise DocumentError("The server's answer is broken: it cannot be unpacked") from None
        if len(data) > most:
            return bytes(data[:most]), False
    return bytes(data), True


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """From packed bytes and how many to give at most, to plain ones."""
    if encoding in ("", "identity"):
        return lambda data, most: data[:most]
    if encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress
    raise DocumentError("The server's answer is packed in a way that nobody asked for")


def _moved(url: str, response: httpx2.Response) -> str:
    target = joined(url, response.headers.get("location", ""))
    if target is None:
        raise OffLimits("The server redirects to what is no web address")
    return target


def _version(response: httpx2.Response) -> str | None:
    etag, modified = response.headers.get("etag", ""), response.headers.get("last-modified", "")
    if _VALIDATOR.fullmatch(etag):
        return _ETAG + etag
    return _MODIFIED + modified if _VALIDATOR.fullmatch(modified) and parsedate(modified) else None


def _wait(retry_after: str) -> float:
    return min(float(retry_after), MAX_WAIT_S) if re.fullmatch(r"[0-9]{1,6}", retry_after) else WAIT_S


def _said(error: Exception) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "The server's certificate is not valid"
    if isinstance(error, httpx2.TimeoutException):
        return "The server did not answer in time"
    if isinstance(error, httpx2.ConnectError):
        return "The server cannot be reached"
    return "The server did not answer as it should"
