"""The text of HTML and XML, read as a stream: nesting costs neither stack nor time."""

import re
from html.parser import HTMLParser
from xml.parsers import expat

from kernel.knowledge.contract import DocumentError, Part
from kernel.knowledge.plain import MAX_HEADING, Piece, assembled, decode

HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
UNSEEN = frozenset({"script", "style", "noscript", "template", "svg", "nav", "iframe", "select"})
"""What stands in them is no part of what a page says."""

PARAGRAPHS = HEADINGS.union(
    ("address", "article", "aside", "blockquote", "details", "dl", "div", "fieldset", "figure", "footer"),
    ("form", "header", "main", "ol", "p", "pre", "section", "table", "ul"),
)
LINES = frozenset({"br", "caption", "dd", "dt", "figcaption", "hr", "legend", "li", "summary", "tr"})

_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s{0,10}=\s{0,10}["']?\s{0,10}([\w-]{1,40})""", re.I)
_META_WITHIN = 2048
_SPACE = re.compile(r"\s+")
_BLANK_LINES = re.compile(r"\n{3,}")


def read_html(data: bytes, charset: str = "") -> list[Part]:
    """A part for each heading and what follows it. Raises DocumentError."""
    named = _META_CHARSET.search(data[:_META_WITHIN])
    reader = _Page()
    reader.feed(decode(data, charset or (named[1].decode().lower() if named else "")))
    reader.close()
    return assembled(reader.pieces())


def read_xml(data: bytes) -> list[Part]:
    """A line for each run of text between its tags. Raises DocumentError, also for every kind of entity."""
    found: list[str] = []
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.CharacterDataHandler = found.append
    parser.StartDoctypeDeclHandler = _refuse_dtd
    parser.StartElementHandler = lambda name, attributes: found.append("\n")
    parser.EndElementHandler = lambda name: found.append("\n")
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError):  # the latter two for encodings it does not know
        raise DocumentError("The document is damaged: it is not well-formed XML") from None
    lines = (line.strip() for line in "".join(found).split("\n"))
    return assembled([("\n".join(line for line in lines if line), None, None)])


def _refuse_dtd(*_: object) -> None:
    raise DocumentError("The document declares XML entities or a DTD, which are not read")


class _Page(HTMLParser):
    """Gathers text; a line or paragraph begins where a browser would begin one."""

    def __init__(self) -> None:
        super().__init__()
        self._sections: list[tuple[str | None, list[str]]] = [(None, [])]
        self._title: list[str] = []
        self._unseen: list[str] = []
        self._in_title = False
        self._preformatted = 0
        self._at_begin = True

    def pieces(self) -> list[Piece]:
        """The page's title stands for the heading of what comes before the first one."""
        title = _SPACE.sub(" ", "".join(self._title)).strip()[:MAX_HEADING] or None
        return [(_tidied(texts), None, heading or title) for heading, texts in self._sections]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNSEEN:
            self._unseen.append(tag)
        elif tag == "title":
            self._in_title = not self._title
        elif tag in HEADINGS:
            self._sections.append((None, []))
            self._at_begin = True
        elif tag in ("td", "th") and not self._at_begin:
            self._write(" | ")
        self._break(tag)
        self._preformatted += tag == "pre"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in UNSEEN:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._unseen and tag == self._unseen[-1]:
            self._unseen.pop()
        elif tag == "title":
            self._in_title = False
        elif tag in HEADINGS:
            self._name_section()
        self._preformatted -= tag == "pre" and self._preformatted > 0
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if self._in_title:
            self._title.append(data)
        elif self._preformatted:
            self._write(data)
        elif text := _SPACE.sub(" ", data).lstrip(" " if self._at_begin else ""):
            self._write(text)

    def _name_section(self) -> None:
        _, texts = self._sections[-1]
        heading = _SPACE.sub(" ", "".join(texts)).strip()[:MAX_HEADING]
        self._sections[-1] = (heading or None, texts)

    def _break(self, tag: str) -> None:
        if tag in PARAGRAPHS:
            self._write("\n\n")
        elif tag in LINES:
            self._write("\n")

    def _write(self, text: str) -> None:
        if not self._unseen:
            self._sections[-1][1].append(text)
            self._at_begin = text[-1] == "\n"


def _tidied(texts: list[str]) -> str:
    lines = "".join(texts).split("\n")
    return _BLANK_LINES.sub("\n\n", "\n".join(map(str.rstrip, lines)))
