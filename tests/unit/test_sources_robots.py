"""Rules of robots.txt, sitemaps, and the addresses in pages."""

import time

import pytest

from kernel.knowledge.sources.links import canonical, links_of, text_of, title_of
from kernel.knowledge.sources.robots import Robots
from kernel.knowledge.sources.sitemap import read_sitemap


def allows(text: str, path: str) -> bool:
    return Robots(text, "CodexOS").allows(path)


@pytest.mark.parametrize(
    ("rules", "path", "allowed"),
    [
        ("Disallow: /", "/x", False),
        ("Disallow:", "/x", True),
        ("Disallow: /a", "/abc", False),
        ("Disallow: /a\nAllow: /abc", "/abcd", True),
        ("Allow: /a\nDisallow: /abc", "/abcd", False),
        ("Disallow: /a\nAllow: /a", "/a", True),
        ("Disallow: /*.pdf", "/x/y.pdf?z", False),
        ("Disallow: /*.pdf$", "/x/y.pdf?z", True),
        ("Disallow: /*.pdf$", "/x/y.pdf", False),
        ("Disallow: /a*b*c", "/a-b-c", False),
        ("Disallow: /a*b*c", "/a-c-b", True),
        ("Disallow: /*aa$", "/aaa", False),
        ("Disallow: /a*a$", "/a", True),
        ("Disallow: /x$", "/x", False),
        ("Disallow: /x$", "/xy", True),
        ("Disallow: /*", "/", False),
        ("Disallow: /%7ejoe", "/~joe", False),
        ("Disallow: /ü", "/%c3%bc", False),
        ("Disallow: /a # all of it", "/a", False),
        ("DISALLOW : /a", "/a", False),
        ("Disallow: /search?q=", "/search?q=x", False),
        ("Noindex: /a\nnonsense\n:\nDisallow: /b", "/b", False),
    ],
)
def test_rules(rules: str, path: str, allowed: bool) -> None:
    assert allows(f"User-agent: *\n{rules}", path) is allowed


def test_rules_for_nobody() -> None:
    assert allows("", "/x")
    assert allows("Disallow: /\nUser-agent: *", "/x")


def test_the_group_of_our_name_comes_before_that_of_everybody() -> None:
    text = "User-agent: *\nDisallow: /\n\nUser-agent: other\nUser-agent: codexos\nDisallow: /private\n"
    assert allows(text, "/x")
    assert not allows(text, "/private")
    assert not allows(text.replace("codexos", "codex"), "/x")


def test_groups_of_one_name_are_one_and_blank_lines_end_none() -> None:
    text = "\ufeffUser-agent: CodexOS\n\nDisallow: /a\nUser-agent: x\nDisallow: /\nUser-agent: codexos\nDisallow: /b"
    assert [allows(text, path) for path in ("/a", "/b", "/c")] == [False, False, True]


def test_delay_and_sitemaps() -> None:
    robots = Robots(
        "Sitemap: https://x/1.xml\nUser-agent: *\nCrawl-delay: 1.5\nsitemap: https://x/2.xml", "CodexOS"
    )
    assert (robots.delay, robots.sitemaps) == (1.5, ["https://x/1.xml", "https://x/2.xml"])
    assert Robots("User-agent: *\nCrawl-delay: 86400", "CodexOS").delay == 30
    assert Robots("User-agent: *\nCrawl-delay: -1e9", "CodexOS").delay == 0


def test_rules_that_are_made_to_take_long_do_not() -> None:
    robots = Robots("User-agent: *\nDisallow: /" + "*a" * 50_000 + "b$", "CodexOS")
    begin = time.perf_counter()
    assert robots.allows("/" + "a" * 2_000)
    assert time.perf_counter() - begin < 1.0


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("HTTP://Example.COM:80/a/../b/./c?x=1#f", "http://example.com/b/c?x=1"),
        ("https://example.com", "https://example.com/"),
        ("https://example.com?x", "https://example.com/?x"),
        ("https://example.com:8443/ä b", "https://example.com:8443/%C3%A4%20b"),
        ("mailto:x@example.com", None),
        ("/path", None),
        ("http://[::1", None),
        ("http:///x", None),
        ("javascript:alert(1)", None),
    ],
)
def test_one_form_of_an_address(url: str, form: str | None) -> None:
    assert canonical(url) == form
    assert form is None or canonical(form) == form


def test_links() -> None:
    page = """<base href="/docs/"><a href=a>1</a><A class=x HREF='b?x=1&amp;y=2#z'>2</A><a href="a#again">3</a>
    <a data-href="no">x</a><a href="mailto:x@y">x</a><a rel="nofollow" href="no">x</a><a href="#top">x</a>
    <a
      href=" ../up
    ">4</a><area href="//other.example/x"><a>x</a><a href="http://[::1">x</a><link href="no.css"><abbr href=no>"""
    assert links_of(page, "https://example.com/start") == [
        "https://example.com/docs/a",
        "https://example.com/docs/b?x=1&y=2",
        "https://example.com/docs/",
        "https://example.com/up",
        "https://other.example/x",
    ]


@pytest.mark.parametrize(
    "piece", ["<a ", "<a href=", '<a href="', "<a x='\">", "<", "<a " + "x" * 9000, "<!--", "<title "]
)
def test_pages_that_are_made_to_take_long_do_not(piece: str) -> None:
    page = piece * (2_000_000 // len(piece))
    begin = time.perf_counter()
    assert len(links_of(page, "https://example.com/")) <= 1
    title_of(page)
    text_of(page.encode(), None)
    assert time.perf_counter() - begin < 2.0


def test_a_page_of_very_many_links() -> None:
    page = "".join(f'<a href="/{at}">' for at in range(50_000))
    assert len(links_of(page, "https://example.com/")) == 10_000


def test_titles() -> None:
    assert title_of("<html><TITLE lang=de>\n Über &amp;\n uns </TITLE>") == "Über & uns"
    assert title_of("<p>none") is None
    assert title_of("<title> </title>") is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("Привет".encode("utf-16"), None),
        ("Привет".encode("koi8-r"), "KOI8-R"),
        ("Привет".encode("windows-1251") + b"<meta charset=windows-1251>", None),
        ("Привет".encode() + b"<meta charset=windows-1251>", None),
        ("Привет".encode(), "punycode"),
    ],
)
def test_pages_in_other_encodings(data: bytes, said: str | None) -> None:
    assert text_of(data, said).startswith("Привет")


def test_the_text_of_what_is_none() -> None:
    assert text_of(bytes(range(256)) * 100, None) == ""


def test_sitemaps() -> None:
    xml = b"""<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"
      xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
      <url><loc> https://example.com/a </loc><image:image><image:loc>https://no/</image:loc></image:image></url>
      <url><lastmod>2024-01-01</lastmod></url><url><loc>https://example.com/b</loc></url></urlset>"""
    assert read_sitemap(xml).pages == ["https://example.com/a", "https://example.com/b"]
    index = b"<sitemapindex><sitemap><loc>https://example.com/1.xml</loc></sitemap></sitemapindex>"
    assert read_sitemap(index).sitemaps == ["https://example.com/1.xml"]
    assert read_sitemap(xml[:-60]).pages == ["https://example.com/a"]


@pytest.mark.parametrize(
    "declared",
    [
        b'<!ENTITY a "https://example.com/x">',
        b'<!ENTITY a SYSTEM "file:///etc/passwd">',
        b'<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">',
    ],
)
def test_sitemaps_that_declare_something(declared: bytes) -> None:
    xml = b"<!DOCTYPE u [" + declared + b"]><urlset><url><loc>&a;</loc></url></urlset>"
    assert read_sitemap(xml).pages == []


@pytest.mark.parametrize(
    "data", [b"", b"<html><p>not found", b"\x00\xff", b"{}", b"<?xml version='1.0' encoding='x'?>"]
)
def test_sitemaps_that_are_none(data: bytes) -> None:
    assert read_sitemap(data).pages == read_sitemap(data).sitemaps == []
