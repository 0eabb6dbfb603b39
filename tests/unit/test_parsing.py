"""Text out of every format there is, and what is said of files that are not what they should be."""

import asyncio
import os
import time
from collections.abc import Iterator

import orjson
import pytest

from configs.settings import Ingestion
from kernel.knowledge import plain
from kernel.knowledge.contract import DocumentError, Fetched, Part
from kernel.knowledge.parsing import DOCUMENTS, Parsers
from tests.documents import WORD, docx, epub, image_pdf, pdf, pptx, raw_pdf, xlsx, zipped

pytestmark = pytest.mark.anyio

SIGNS = "AT&amp;T &lt;b&gt; &quot;q&quot; it&apos;s &#233;&#x20AC; * _x_ # 1. a | b"
SHOWN = """AT&T <b> "q" it's é€ * _x_ # 1. a | b"""
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
QUICK = Ingestion(parse_seconds=1.0, parse_mb=256)


@pytest.fixture(scope="module")
def parsers() -> Iterator[Parsers]:
    parsers = Parsers(Ingestion())
    yield parsers
    parsers.close()


@pytest.fixture
def broken() -> Iterator[Parsers]:
    parsers = Parsers(QUICK, workers=1, module="tests.broken_parser")
    yield parsers
    parsers.close()


def refusal(parsers: Parsers, name: str, data: bytes, media_type: str | None = None) -> str:
    with pytest.raises(DocumentError) as refused:
        parsers.parse_now(Fetched(data, name, media_type))
    return str(refused.value)


class TestFormats:
    def test_pdf_keeps_its_pages(self, parsers: Parsers) -> None:
        parts = parsers.parse_now(Fetched(pdf("One\nof two lines", "", "Three"), "a.pdf"))
        assert parts == [Part("One\nof two lines", 0, 1), Part("Three", 18, 3)]

    def test_pdf_puts_divided_words_together(self, parsers: Parsers) -> None:
        assert parsers.parse_now(Fetched(pdf("An exam-\nple here"), "a.pdf"))[0].text == "An example here"

    def test_pdf_of_many_pages(self, parsers: Parsers) -> None:
        parts = parsers.parse_now(Fetched(pdf(*(f"This is page {n}" for n in range(1, 301))), "a.pdf"))
        assert [part.page for part in parts] == list(range(1, 301))
        assert parts[299].text == "This is page 300"

    def test_script_in_a_pdf_is_no_text(self, parsers: Parsers) -> None:
        parts = parsers.parse_now(Fetched(pdf("Words", script="app.alert('x')"), "a.pdf"))
        assert [part.text for part in parts] == ["Words"]

    def test_pdf_that_only_its_owner_may_change_is_read(self, parsers: Parsers) -> None:
        assert parsers.parse_now(Fetched(pdf("Words", password=""), "a.pdf"))[0].text == "Words"

    def test_docx_keeps_headings_and_every_sign(self, parsers: Parsers) -> None:
        parts = parsers.parse_now(
            Fetched(docx((1, "A &amp; B"), SIGNS, (2, "Sub"), "# no heading"), "a.docx")
        )
        assert [part.heading for part in parts] == ["A & B", "Sub"]
        assert parts[0].text.endswith(SHOWN)
        assert parts[1].text.endswith("# no heading")

    def test_pictures_of_a_docx_are_not_unpacked(self, parsers: Parsers) -> None:
        data = docx("Words", more={"word/media/image1.png": b"\0" * 20_000_000})
        assert parsers.parse_now(Fetched(data, "a.docx"))[0].text == "Words"

    def test_pptx_keeps_slides_and_titles(self, parsers: Parsers) -> None:
        parts = parsers.parse_now(Fetched(pptx(("First", SIGNS), ("Second", "text")), "a.pptx"))
        assert [(part.page, part.heading) for part in parts] == [(1, "First"), (2, "Second")]
        assert SHOWN in parts[0].text

    def test_xlsx_keeps_the_names_of_sheets(self, parsers: Parsers) -> None:
        sheets = {"Prices": [["item", "price"], ["tea", "3"]], "R&amp;D": [["AT&amp;T", "x"]]}
        parts = parsers.parse_now(Fetched(xlsx(sheets), "a.xlsx"))
        assert [part.heading for part in parts] == ["Prices", "R&D"]
        assert "| tea | 3 |" in parts[0].text
        assert "| AT&T | x |" in parts[1].text

    def test_epub_keeps_its_chapters(self, parsers: Parsers) -> None:
        parts = parsers.parse_now(Fetched(epub(("One", SIGNS), ("Two", "text")), "a.epub"))
        assert [part.heading for part in parts] == ["One", "Two"]
        assert SHOWN in parts[0].text

    def test_html_keeps_what_is_to_be_read(self, parsers: Parsers) -> None:
        page = b"""<html><head><title>The &amp; site</title><style>p {}</style></head><body><nav>menu</nav>Hello
            <script>alert('x')</script><h1>Head</h1><p>one  <b>two</b></p><ul><li>a<li>b</ul><h2>Sub <i>x</i></h2>
            <table><tr><td>1</td><td>2</td></tr></table><pre>if x:\n    y</pre>
            <img src="data:image/png;base64,AAAA"><meta http-equiv="refresh" content="0;url=http://x"></body></html>"""
        parts = parsers.parse_now(Fetched(page, "a.html"))
        assert [(part.heading, part.text) for part in parts] == [
            ("The & site", "Hello"),
            ("Head", "Head\n\none two\n\na\nb"),
            ("Sub x", "Sub x\n\n1 | 2\n\nif x:\n    y"),
        ]

    def test_xml_and_svg_are_their_text(self, parsers: Parsers) -> None:
        svg = b'<?xml version="1.0"?><svg><title>T</title><g><text>a &amp; b</text></g></svg>'
        assert parsers.parse_now(Fetched(svg, "a.svg"))[0].text == "T\na & b"

    def test_markdown_keeps_headings_and_places(self, parsers: Parsers) -> None:
        text = "intro\n\nTitle\n=====\n\nSub\n---\na | b\n---|---\n\n# C# ##\n```\n# code\n```\n## C#\nend"
        parts = parsers.parse_now(Fetched(text.encode(), "a.md"))
        assert [part.heading for part in parts] == [None, "Title", "Sub", "C#", "C#"]
        assert "".join(part.text for part in parts) == text
        assert all(text[part.offset :].startswith(part.text) for part in parts)

    def test_front_matter_is_no_heading(self, parsers: Parsers) -> None:
        parts = parsers.parse_now(Fetched(b"---\ntitle: x\n---\n\n# A", "a.md"))
        assert [part.heading for part in parts] == [None, "A"]

    @pytest.mark.parametrize("name", ["a.txt", "a.py", "a.csv", "Makefile", "a.jsonl", "a.unheard-of"])
    def test_text_is_taken_as_it_is(self, parsers: Parsers, name: str) -> None:
        assert parsers.parse_now(Fetched(b"a,b\r\n# c\n", name)) == [Part("a,b\n# c\n")]

    def test_escaped_letters_of_json_can_be_searched_for(self, parsers: Parsers) -> None:
        data = rb'{"a":"\u4f60\u597d \ud83d\ude00 \u0022 \\u00e9"}'
        text = parsers.parse_now(Fetched(data, "a.json"))[0].text
        assert text == r'{"a":"你好 😀 \u0022 \\u00e9"}'

    def test_notebooks_are_what_people_wrote(self, parsers: Parsers) -> None:
        cells = (
            {"cell_type": "markdown", "source": ["# Head\n", "words"]},
            {"cell_type": "code", "source": "# x = 1", "outputs": [{"data": {"image/png": "iVBOR"}}]},
        )
        parts = parsers.parse_now(Fetched(orjson.dumps({"cells": cells}), "a.ipynb"))
        assert parts == [Part("# Head\nwords\n\n```\n# x = 1\n```", 0, None, "Head")]


class TestKinds:
    @pytest.mark.parametrize(
        ("name", "media_type"),
        [
            ("page", "text/html; charset=utf-8"),
            ("index.php", "text/html"),
            ("page", None),
            ("guide.md", "text/html"),
        ],
    )
    def test_a_page_is_known_by_what_its_sender_says_or_its_bytes(
        self, parsers: Parsers, name: str, media_type: str | None
    ) -> None:
        page = Fetched(b"<!DOCTYPE html><h1>A</h1><p>b", name, media_type)
        assert parsers.parse_now(page) == [Part("A\n\nb", 0, None, "A")]

    def test_containers_are_known_by_their_bytes(self, parsers: Parsers) -> None:
        for data in (
            docx("Words"),
            pptx(("Words", "")),
            xlsx({"S": [["Words"]]}),
            epub(("Words", "")),
            pdf("Words"),
        ):
            assert "Words" in parsers.parse_now(Fetched(data, "download", "application/octet-stream"))[0].text

    def test_feeds_are_xml(self, parsers: Parsers) -> None:
        feed = Fetched(b"<rss><title>News</title></rss>", "feed", "application/rss+xml")
        assert parsers.parse_now(feed)[0].text == "News"

    def test_text_may_be_called_anything_by_who_sends_text(self, parsers: Parsers) -> None:
        assert parsers.parse_now(Fetched(b"words", "handbook.pdf", "text/plain"))[0].text == "words"


PROTECTED = "The document is protected by a password"
DECLARES = "The document declares XML entities or a DTD, which are not read"
DAMAGED = "The document is damaged and cannot be read"
LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
LAUGHS = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "lol">{LAUGHS}]>'
BODY = f'<w:document xmlns:w="{WORD}"><w:body><w:p><w:r><w:t>&l9;</w:t></w:r></w:p></w:body></w:document>'


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "data", "reason"),
        [
            ("a.pdf", b"", "The document is empty"),
            ("a.md", b"", "The document is empty"),
            ("a.txt", b" \n\t\n", "The document holds no text"),
            ("a.html", b"<script>x</script>", "The document holds no text"),
            ("a.pdf", b"hello", "The document is not a PDF, although it is called one"),
            ("a.pdf", docx("x"), "The document is not a PDF, although it is called one"),
            ("a.docx", pdf("x"), "The document is not a DOCX file, although it is called one"),
            ("a.xlsx", docx("x"), "The document is not an XLSX file, although it is called one"),
            ("a.txt", pdf("x"), "The document is a PDF, although it is called something else"),
            ("a.txt", docx("x"), "The document is a ZIP archive, which cannot be read"),
            ("a.zip", zipped({"a": "b"}), "The document is a ZIP archive, which cannot be read"),
            ("a.doc", OLE + bytes(500), "The document is of an older Office format, which cannot be read"),
            (
                "a.docx",
                OLE + bytes(500),
                "The document is not a DOCX file but of an older format: save it anew",
            ),
            ("a.xlsx", OLE + bytes(500) + "EncryptedPackage".encode("utf-16-le"), PROTECTED),
            ("a.pdf", pdf("x", password="secret"), PROTECTED),
            ("a.pdf", pdf("words")[:300], DAMAGED),
            ("a.docx", docx("words")[:400], DAMAGED),
            ("a.xlsx", xlsx({"S": [["x"]]})[:-20], DAMAGED),
            ("a.pdf", image_pdf(), "The document holds no text"),
            ("a.pdf", pdf("", ""), "The document holds no text"),
            ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "The document is not text"),
            ("a.py", bytes(1000), "The document is not text"),
            ("a.docx", docx(more={"word/document.xml": LAUGHS + BODY}), DECLARES),
            ("a.docx", docx(more={"word/document.xml": (LAUGHS + BODY).encode("utf-16")}), DECLARES),
            ("a.xml", f"{LAUGHS}<x>&l9;</x>".encode(), DECLARES),
            ("a.svg", b'<!DOCTYPE svg SYSTEM "http://x/y.dtd"><svg/>', DECLARES),
            ("a.xml", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>', DECLARES),
            ("a.xml", b"<x><y></x>", "The document is damaged: it is not well-formed XML"),
            (
                "a.xml",
                b"<?xml version='1.0' encoding='big5'?><x/>",
                "The document is damaged: it is not well-formed XML",
            ),
            ("a.ipynb", b'{"cells":[{}]}', "The document is damaged: it is not a notebook"),
            ("a.rtf", b"{\\rtf1 words}", "The document is of the format RTF, which cannot be read"),
        ],
    )
    def test_has_its_reason(self, parsers: Parsers, name: str, data: bytes, reason: str) -> None:
        assert refusal(parsers, name, data) == reason

    def test_an_encrypted_entry_is_a_password(self, parsers: Parsers) -> None:
        data = bytearray(docx("x"))
        entry = data.rindex(b"PK\x01\x02")
        data[entry + 8] |= 1
        assert refusal(parsers, "a.docx", bytes(data)) == PROTECTED

    def test_a_login_page_is_no_pdf(self, parsers: Parsers) -> None:
        assert "not a PDF" in refusal(parsers, "report.pdf", b"<html>log in", "text/html")

    def test_bombs_do_not_go_off(self, parsers: Parsers) -> None:
        data = docx(more={"word/styles.xml": b"0" * 20_000_000})
        assert "unpacks to more than 256 MB, or to far more" in refusal(parsers, "a.docx", data)

    def test_a_bomb_that_lies_about_its_size(self, parsers: Parsers) -> None:
        data = docx(more={"word/styles.xml": b"0" * 20_000_000})
        lying = data.replace((20_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
        assert lying != data
        assert refusal(parsers, "a.docx", lying) == DAMAGED

    def test_too_many_parts(self, parsers: Parsers) -> None:
        data = docx("x", more={f"word/{n}.xml": "" for n in range(10_001)})
        assert refusal(parsers, "a.docx", data) == "The document has more than 10,000 parts"

    def test_a_document_that_is_too_large(self) -> None:
        small = Parsers(Ingestion(max_document_mb=1))
        assert refusal(small, "a.txt", b"a" * 1_048_577) == "The document is larger than 1 MB"
        small.close()


class TestEncodings:
    @pytest.mark.parametrize(
        "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
    )
    def test_is_found_without_being_told(self, encoding: str) -> None:
        assert plain.decode("Größe – 3 €\r\nzwei\rdrei".encode(encoding)) == "Größe – 3 €\nzwei\ndrei"

    def test_what_the_sender_says_counts_unless_it_is_utf8(self) -> None:
        assert plain.decode("シフト".encode("shift_jis"), "shift_jis") == "シフト"
        assert plain.decode("シフト".encode(), "iso-8859-1") == "シフト"

    @pytest.mark.parametrize("charset", ["idna", "rot13", "unicode_escape", "utf-7", "no such"])
    def test_codecs_that_are_none_are_not_believed(self, charset: str) -> None:
        assert plain.decode(b"caf\xe9 +AGE-", charset) == "café +AGE-"

    def test_a_page_says_it_itself(self, parsers: Parsers) -> None:
        page = '<meta http-equiv=Content-Type content="text/html; charset=windows-1251"><p>Привет'
        assert parsers.parse_now(Fetched(page.encode("cp1251"), "a.html"))[0].text == "Привет"

    def test_what_is_believed_is_known(self) -> None:
        names = [f"windows-125{n}" for n in range(9)] + [f"iso-8859-{n}" for n in range(20)]
        names += [
            "latin1",
            "koi8-r",
            "koi8-u",
            "cp866",
            "macintosh",
            "shift_jis",
            "shift-jis",
            "euc-jp",
            "euc-kr",
        ]
        names += ["gb2312", "gbk", "gb18030", "big5", "utf-16", "utf-16le", "utf-16be"]
        believed = [name for name in names if plain.CHARSET.fullmatch(name)]
        assert len(believed) == len(names) - 5
        assert all(plain.decode(b"caf\xc3", name) for name in believed)

    def test_colours_of_terminals_are_text(self) -> None:
        assert plain.decode(b"\x1b[31mred\x1b[0m") == "[31mred[0m"

    def test_damage_stays_to_be_seen(self) -> None:
        assert plain.decode("ééé".encode() + b"\xff end") == "ééé\ufffd end"

    def test_a_few_control_characters_fall_away(self) -> None:
        assert plain.decode(b"a\0b" + b"c" * 500 + b"\x1b") == "ab" + "c" * 500


class TestBounds:
    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("a.html", b"<div>" * 1_000_000 + b"deep"),
            ("a.xml", b"<a>" * 1_000_000 + b"deep" + b"</a>" * 1_000_000),
            ("a.html", b"<p>" + b"deep " * 1_000_000),
        ],
    )
    def test_depth_and_length_are_read(self, parsers: Parsers, name: str, data: bytes) -> None:
        assert parsers.parse_now(Fetched(data, name))[0].text.startswith("deep")

    @pytest.mark.parametrize(
        "data",
        [
            docx(
                more={
                    "word/document.xml": f'<w:document xmlns:w="{WORD}"><w:body>{"<w:tbl><w:tr><w:tc>" * 99_999}'
                }
            ),
            epub(("x", "<div>" * 200_000 + "</div>" * 200_000)),
            raw_pdf(b"<</Type/Page/Parent 2 0 R/Contents 4 0 R>>", b"[" * 500_000),
        ],
        ids=["docx", "epub", "pdf"],
    )
    def test_what_breaks_its_reader_fails_alone(self, parsers: Parsers, data: bytes) -> None:
        assert refusal(parsers, "unnamed", data)
        assert parsers.parse_now(Fetched(pdf("fine"), "a.pdf"))[0].text == "fine"

    def test_text_is_read_in_linear_time(self) -> None:
        began = time.monotonic()
        for data in (
            b"a" * 10_000_000,
            b"\n" * 999_999 + b"x",
            b"# " * 2_000_000,
            b"```\n" * 500_000,
            b"\n# x" * 200_000,
        ):
            plain.read("markdown", data)
        assert time.monotonic() - began < 10


class TestWorkers:
    def test_are_not_started_for_text(self) -> None:
        parsers = Parsers(QUICK, module="no.such.module")
        assert parsers.parse_now(Fetched(b"words", "a.md"))[0].text == "words"
        assert refusal(parsers, "a.pdf", pdf("x")) == "The parser does not start; try again"
        parsers.close()

    def pid(self, parsers: Parsers) -> int:
        return int(parsers.parse_now(Fetched(b"%PDF-\n", "a.pdf"))[0].text.split()[0])

    @pytest.mark.parametrize(
        ("command", "reason"),
        [
            ("hang", "took longer than 1 s to read"),
            ("spin", "took longer than 1 s to read"),
            ("crash", "is damaged, or needs more than 256 MB to read"),
            ("eat", "needs more than 256 MB to read"),
            ("leave", "is damaged, or needs more"),
            ("garbage", "is damaged, or needs more"),
            ("flood", "is damaged, or needs more"),
            ("write", "is damaged, or needs more"),
        ],
    )
    def test_are_replaced_when_they_fail(self, broken: Parsers, command: str, reason: str) -> None:
        before = self.pid(broken)
        assert reason in refusal(broken, "a.pdf", b"%PDF-\n" + command.encode())
        after = self.pid(broken)
        if command != "eat":
            assert after != before
            with pytest.raises(ProcessLookupError):
                os.kill(before, 0)

    def test_are_kept_between_documents_and_ended_with_them(self, broken: Parsers) -> None:
        pid = self.pid(broken)
        assert self.pid(broken) == pid
        broken.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_are_replaced_after_many_documents(self, broken: Parsers) -> None:
        assert len({self.pid(broken) for _ in range(DOCUMENTS + 1)}) == 2

    def test_one_that_died_idle_is_replaced(self, broken: Parsers) -> None:
        pid = self.pid(broken)
        os.kill(pid, 9)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert self.pid(broken)

    def test_know_nothing_of_the_environment(self, broken: Parsers) -> None:
        _, *names = broken.parse_now(Fetched(b"%PDF-\n", "a.pdf"))[0].text.split()
        assert {name.partition("_")[0] for name in names} <= {
            "LC",
            "LD",
            "MALLOC",
            "PYTHONPATH",
            "RAYON",
            "TOKIO",
        }

    async def test_work_beside_the_event_loop(self, broken: Parsers) -> None:
        slow = asyncio.ensure_future(broken.parse(Fetched(b"%PDF-\nhang", "a.pdf")))
        async with asyncio.timeout(0.9):
            assert await broken.parse(Fetched(b"words", "a.txt")) == [Part("words")]
        with pytest.raises(DocumentError, match="took longer"):
            await slow

    async def test_closing_does_not_wait_for_documents(self) -> None:
        patient = Parsers(Ingestion(parse_seconds=60), workers=1, module="tests.broken_parser")
        pid = self.pid(patient)
        slow = asyncio.ensure_future(patient.parse(Fetched(b"%PDF-\nhang", "a.pdf")))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await asyncio.to_thread(patient.close)
        with pytest.raises((DocumentError, asyncio.CancelledError)):
            await slow
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    async def test_more_callers_than_workers_queue(self, parsers: Parsers) -> None:
        pages = [parsers.parse(Fetched(pdf(f"Number {n}"), "a.pdf")) for n in range(12)]
        assert [parts[0].text for parts in await asyncio.gather(*pages)] == [f"Number {n}" for n in range(12)]
