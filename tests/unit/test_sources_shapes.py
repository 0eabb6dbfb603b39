"""The entries of an ingest order, the rules in them, and texts and uploads."""

import time
from typing import Any

import pytest
from pydantic import ValidationError

from kernel.ids import new_id
from kernel.knowledge.contract import DocumentError, SourceError
from kernel.knowledge.sources import Upload, refusal
from kernel.knowledge.sources.formats import readable
from kernel.knowledge.sources.globs import Globs
from kernel.outbound import Egress
from tests.sources import REFUSED, entry, fetched, listed, opened, surroundings

pytestmark = pytest.mark.anyio

URL = {"type": "url", "location": "https://docs.example.com"}
GITHUB = {"type": "github", "location": "https://github.com/org/repo"}
FILE = {"type": "file", "location": "s3://bucket/file.pdf"}
TEXT = {"type": "text", "location": "faq.md", "text": "Why?"}

GOOD = [
    URL,
    GITHUB | {"branch": "main", "paths": ["docs/"]},
    FILE,
    TEXT,
    URL | {"crawl": {}},
    URL | {"crawl": {"depth": 10, "include": ["/docs/**"], "exclude": ["*.pdf"], "max_pages": 100_000}},
    URL | {"crawl": {"depth": 0, "sitemap": False}, "metadata": {"team": {"a": [1]}}, "source_type": "docs"},
    GITHUB | {"location": "https://gitlab.com/group/sub/repo", "credential_id": new_id("cred")},
    GITHUB | {"branch": "release/1.x", "include": ["**/*.md"], "exclude": ["drafts/"]},
    *(FILE | {"location": place} for place in ("s3://bucket", "s3://my.bucket/", "s3://b-1/a b/ü.md")),
    FILE | {"location": "upload_01JZ8XJ4T2QK5V9W3M7N6P1R8S"},
    TEXT | {"title": "Häufige Fragen", "text": "x" * 5_000_000},
]

BAD = [
    ({}, "type"),
    ({"type": "ftp", "location": "x"}, "ftp"),
    (URL | {"location": ""}, "location"),
    (URL | {"location": "https://example.com/" + "a" * 2048}, "location"),
    (URL | {"location": 7}, "location"),
    (URL | {"craw": {}}, "craw"),
    *((URL | {"crawl": {"depth": depth}}, "depth") for depth in (-1, 11, 1.0, "1", None)),
    *((URL | {"crawl": {"max_pages": most}}, "max_pages") for most in (0, 100_001)),
    (URL | {"crawl": {"sitemap": 1}}, "sitemap"),
    (URL | {"crawl": {"include": ["x"] * 101}}, "include"),
    (URL | {"crawl": {"include": ["/"]}}, "include"),
    (URL | {"crawl": {"exclude": [""]}}, "exclude"),
    (URL | {"crawl": True}, "crawl"),
    (FILE | {"name": " "}, "name"),
    *((URL | {"metadata": {key: 1}}, key) for key in ("tenant", "pk", "chunk_id", "document_id", "version")),
    *((URL | {"metadata": {key: 1}}, "metadata") for key in ("", "a\x00", "k" * 129)),
    (URL | {"metadata": {"a": "x" * 16_384}}, "metadata"),
    (URL | {"metadata": {"a": "\ud800"}}, "metadata"),
    (URL | {"metadata": {"a": 2**70}}, "metadata"),
    (URL | {"metadata": []}, "metadata"),
    *((URL | {"source_type": kind}, "source_type") for kind in ("", "a\n", "x" * 65, "../x")),
    *(
        (GITHUB | {"location": place}, "location")
        for place in (
            "https://github.com/org",
            "https://github.com/org/repo/tree/main/docs",
            "https://github.com/org/..",
            "git@github.com:org/repo",
            "ssh://git@github.com/org/repo",
            "file:///srv/git/repo",
            "/srv/git/repo",
            "ext::sh -c id",
            "https://user:token@github.com/org/repo",
            "https://github.com/org/repo?x=1",
            "https://github.com/org/repo#x",
            "https://github.com/-org/re po",
            "org/repo",
        )
    ),
    *(
        (GITHUB | {"branch": name}, "branch")
        for name in (
            "",
            "-x",
            "--upload-pack=id",
            "a b",
            "a..b",
            "a.lock",
            "/a",
            "a/",
            "a//b",
            "a~1",
            "@{0}",
            "a\n",
        )
    ),
    *(
        (GITHUB | {"paths": [path]}, "paths")
        for path in ("", "/docs", "../x", "a/../b", "a//b", "a\x00", ".")
    ),
    *(
        (FILE | {"location": place}, "location")
        for place in (
            "file:///etc/passwd",
            "/etc/passwd",
            "http://127.0.0.1/x",
            "https://bucket.s3.amazonaws.com/x",
            "s3://",
            "s3://A/x",
            "s3://b/x",
            "s3://a..b/x",
            "s3://bucket//x",
            "s3://bucket/a\nb",
            "s3://user@bucket/x",
            "s3://bucket:80/x",
            "s3://169.254.169.254:80/x",
            "upload_",
            "upload_../../x",
        )
    ),
    (FILE | {"credential_id": "cred_x"}, "credential_id"),
    *((TEXT | {"text": text}, "text") for text in ("", " \n", "\ud800", "x" * 5_000_001, "ü" * 2_500_001)),
    *((TEXT | {"location": place}, "location") for place in ("", "a\x00", "x" * 1025)),
    (TEXT | {"title": " "}, "title"),
]


@pytest.mark.parametrize("fields", GOOD)
def test_takes(fields: dict[str, Any]) -> None:
    assert entry(**fields).location


@pytest.mark.parametrize(("fields", "named"), BAD)
def test_refuses(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as refused:
        entry(**fields)
    assert named in str(refused.value)


def test_a_repository_has_one_name() -> None:
    names = ("https://github.com/org/repo", "https://GitHub.com/org/repo.git", "https://github.com/org/repo/")
    assert {entry(**GITHUB | {"location": name}).location for name in names} == {names[0]}


def test_the_source_type_is_the_type_unless_told() -> None:
    assert entry(**URL).kind == "url"
    assert entry(**URL, source_type="documentation").kind == "documentation"


@pytest.mark.parametrize("url", REFUSED)
def test_no_address_that_is_not_ours_to_reach(url: str) -> None:
    around = surroundings(Egress())
    assert refusal(entry(type="url", location=url), around)
    try:
        repository = entry(type="github", location=f"{url}/org/repo")
    except ValidationError:
        return
    assert refusal(repository, around)


def test_this_product_is_no_source_of_itself() -> None:
    around = surroundings(Egress(own=("codex.example.com", "8.8.8.8")))
    for host in ("codex.example.com", "CODEX.example.com", "8.8.8.8"):
        for fields in ({"type": "url"}, {"type": "url", "crawl": {}}, {"type": "github"}):
            location = f"https://{host}/org/repo"
            assert refusal(entry(location=location, **fields), around) == "Host is this product itself"


def test_what_may_be_read_is_not_refused() -> None:
    around = surroundings(Egress())
    assert [refusal(entry(**fields), around) for fields in (URL, GITHUB, FILE, TEXT)] == [None] * 4


def test_repositories_need_https_outside_the_allowed_networks() -> None:
    http = entry(type="github", location="http://example.com/org/repo")
    inside = entry(type="github", location="http://127.0.0.1:3000/org/repo")
    assert "https" in str(refusal(http, surroundings()))
    assert refusal(http, surroundings(git_hosts={"example.com": "http://127.0.0.1:3000"})) is None
    assert refusal(inside, surroundings()) is None


@pytest.mark.parametrize(
    ("glob", "path", "takes"),
    [
        ("/docs/**", "/docs/a/b", True),
        ("/docs/**", "/docs", True),
        ("/docs/**", "/docs-old/a", False),
        ("docs/", "docs/a/b.md", True),
        ("docs/*", "docs/a", True),
        ("docs/*", "docs/a/b", False),
        ("*.md", "a/b/c.md", True),
        ("*.md", "c.mdx", False),
        ("**/guide/**", "a/b/guide/c", True),
        ("**/guide/**", "a/b/c", False),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/b/*.py", "a/b/c/b/x.py", True),
        ("a/**/b/*.py", "a/b/c/x.py", False),
        ("page-[0-9]", "page-7", True),
        ("page-?", "page-77", False),
    ],
)
def test_globs(glob: str, path: str, takes: bool) -> None:
    assert Globs([glob], []).takes(path) is takes
    assert Globs([], [glob]).takes(path) is not takes


def test_globs_that_are_made_to_take_long_do_not() -> None:
    begin = time.perf_counter()
    assert not Globs(["*a" * 200 + "b", "**/a/" * 60 + "b"], []).takes("a" * 1500 + "/a" * 250)
    assert time.perf_counter() - begin < 1.0


@pytest.mark.parametrize(
    ("media_type", "name", "takes"),
    [
        ("text/html", "index.html", True),
        ("application/pdf", "x", True),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "x.docx", True),
        ("image/png", "x.md", False),
        ("image/svg+xml", "x", True),
        ("application/msword", "x.doc", False),
        ("video/mp4", "x", False),
        ("application/octet-stream", "x.pdf", True),
        ("application/octet-stream", "x.zip", False),
        ("application/zip", "x", False),
        ("application/atom+xml", "feed", True),
        (None, "Dockerfile", True),
        (None, "x.PNG", False),
    ],
)
def test_formats(media_type: str | None, name: str, takes: bool) -> None:
    assert readable(media_type, name) is takes


async def test_a_text() -> None:
    source = opened(surroundings(), **TEXT, title="Questions", metadata={"team": "x"})
    (found,) = await listed(source)
    assert (found.location, found.title, found.source_type) == ("faq.md", "Questions", "text")
    assert (found.size, found.metadata) == (4, {"team": "x"})
    data = await fetched(source, found)
    assert (data.data, data.name, data.media_type) == (b"Why?", "faq.md", "text/markdown")
    assert data.version == found.version
    (other,) = await listed(opened(surroundings(), **TEXT | {"text": "Who?"}))
    assert other.version != found.version


async def test_an_upload() -> None:
    async def read() -> bytes:
        return b"%PDF-"

    upload = Upload("report.pdf", 5, "v1", read)
    around = surroundings(uploads={"upload_1": upload, "upload_2": Upload("x", 65_000_000, "v1", read)})
    source = opened(around, type="file", location="upload_1")
    (found,) = await listed(source)
    assert (found.location, found.title, found.version, found.size) == ("report.pdf", "report.pdf", "v1", 5)
    assert found.origin == "upload_1"
    (named,) = await listed(opened(around, type="file", location="upload_1", name="q3/report.pdf"))
    assert (named.location, named.title, named.origin) == ("q3/report.pdf", "report.pdf", "upload_1")
    assert (await fetched(source, found)).data == b"%PDF-"

    large = opened(around, type="file", location="upload_2")
    with pytest.raises(DocumentError, match="64 MB"):
        await large.fetch((await listed(large))[0])

    gone = opened(around, type="file", location="upload_3")
    with pytest.raises(SourceError, match="upload_3"):
        await listed(gone)
    with pytest.raises(DocumentError, match="upload_3"):
        await gone.fetch(found)
