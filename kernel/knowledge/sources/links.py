"""Addresses of pages: the one form of each, which site it belongs to, and what a page links to."""

import html
import re
from collections.abc import Iterator
from itertools import islice
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from kernel.knowledge.contract import DocumentError
from kernel.knowledge.plain import decode

MAX_LINKS = 10_000
"""Of one page."""
Place = tuple[str, int | None]
"""What makes two pages one site: the host without `www.`, and the port when it is not the usual."""

# A tag ends at the next `<` or `>`, which keeps every search in the length of the page.
_TAG = re.compile(r"<(a|area|base)\s([^<>]{1,8192})>", re.IGNORECASE)
_HREF = re.compile(r"""(?<![\w-])href\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)
_REL = re.compile(r"""(?<![\w-])rel\s*=\s*["']?[^"'<>]{0,256}?nofollow""", re.IGNORECASE)
_TITLE = re.compile(r"<title(?:\s[^<>]{0,512})?>([^<]{1,2048})", re.IGNORECASE)
_CHARSET = re.compile(
    rb"""<meta\s[^<>]{0,512}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""", re.IGNORECASE
)
_META_WITHIN = 4096
_PORTS = {"http": 80, "https": 443}
_PATH = "/%:@!$&'()*+,;=~"
_QUERY = _PATH + "?"
_BREAKS = {ord(char): None for char in "\t\n\r"}


def canonical(url: str) -> str | None:
    """Without fragment, default port and dots in the path; None for what is no web address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not host or not host.isascii() or "@" in parts.netloc:
        return None
    place = f"[{host}]" if ":" in host else host
    if port not in (None, _PORTS[parts.scheme]):
        place += f":{port}"
    path = urlsplit(urljoin(url, parts.path)).path if "/." in parts.path else parts.path
    path, query = quote(path or "/", _PATH, errors="replace"), quote(parts.query, _QUERY, errors="replace")
    return urlunsplit((parts.scheme, place, path, query, ""))


def place_of(url: str) -> Place:
    """Of a canonical address."""
    parts = urlsplit(url)
    return (parts.hostname or "").removeprefix("www."), parts.port


def links_of(page: str, url: str) -> list[str]:
    """The canonical addresses that an HTML page at `url` links to, each once, in the order of the page."""
    return list(dict.fromkeys(islice(_links(page, url), MAX_LINKS)))


def _links(page: str, url: str) -> Iterator[str]:
    base = url
    for tag in _TAG.finditer(page):
        match = _HREF.search(tag[2])
        if match is None or _REL.search(tag[2]):
            continue
        target = joined(base, html.unescape(match[1] or match[2] or match[3] or ""))
        if target is None:
            continue
        if tag[1].lower() == "base":
            base = target
        else:
            yield target


def joined(base: str, reference: str) -> str | None:
    """The canonical address that a reference in a page means, None when it is none."""
    try:
        return canonical(urljoin(base, reference.strip().translate(_BREAKS)))
    except ValueError:
        return None


def title_of(page: str) -> str | None:
    match = _TITLE.search(page)
    title = " ".join(html.unescape(match[1]).split()) if match else ""
    return title[:512] or None


def text_of(data: bytes, charset: str | None) -> str:
    """Of an HTML page; nothing of what is none."""
    meta = _CHARSET.search(data, 0, _META_WITHIN)
    try:
        return decode(data, (charset or (meta[1].decode() if meta else "")).lower())
    except DocumentError:
        return ""
