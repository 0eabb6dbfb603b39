"""Sitemaps: the pages and the further sitemaps that one names."""

from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

MAX_BYTES = 50_000_000
"""Of one sitemap, unpacked; as the protocol has it."""
MAX_PLACES = 50_000
"""As the protocol has it."""


@dataclass(frozen=True, slots=True)
class Sitemap:
    pages: list[str]
    sitemaps: list[str]


def read_sitemap(data: bytes) -> Sitemap:
    """What is broken counts as far as it can be read."""
    sitemap = Sitemap([], [])
    places = {"url": sitemap.pages, "sitemap": sitemap.sitemaps}
    with suppress(ParseError, DefusedXmlException, LookupError, ValueError):
        for _, element in iterparse(BytesIO(data), forbid_dtd=True):
            name = _name(element)
            if name not in places:
                continue
            if place := _location(element):
                places[name].append(place)
            element.clear()
            if len(places[name]) >= MAX_PLACES:
                break
    return sitemap


def _location(element: Element) -> str:
    return next((child.text or "" for child in element if _name(child) == "loc"), "").strip()


def _name(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]
