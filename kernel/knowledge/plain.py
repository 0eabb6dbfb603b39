"""Text that is text already: its encoding, its headings. Cheap enough for the caller's own process."""

import re
from collections.abc import Iterable, Iterator

import orjson

from kernel.knowledge.contract import DocumentError, Part
from kernel.knowledge.kinds import Kind

BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
CHARSET = re.compile(
    r"(?:windows-125[0-8]|iso-8859-(?:[1-9]|1[013-6])|latin1|koi8-[ru]|cp866|macintosh"
    r"|shift[-_]jis|euc-(?:jp|kr)|gb2312|gbk|gb18030|big5|utf-16(?:[lb]e)?)"
)
"""Charsets that are believed when a sender names them; Python knows codecs that are none."""

CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\f\r") + b"\x7f"
BINARY = CONTROLS.translate(None, b"\b\v\x1b")
HIGH = bytes(range(128, 256))
MAX_TEXT = 64 * 2**20
"""Bytes of text that one document may come to."""

MAX_HEADING = 256
MAX_CONTROLS = 0.01
"""Share of such control characters as terminals do not know, above which something is no text."""

_CONTROL, _BINARY = (re.compile(f"[{re.escape(some.decode())}]+") for some in (CONTROLS, BINARY))
_MARKS = re.compile(
    r"\n {0,3}(?:(?P<fence>`{3,}|~{3,})|#{1,6}[ \t]+(?P<title>.*)|(?:={2,}|-{3,})[ \t]*(?=\n|\Z))"
)
"""What may be a heading, or a fence around code; it begins with a line's end, which is quick to find."""

_ESCAPED = re.compile(r"(?<!\\)(?:\\u[0-9a-fA-F]{4})+")

Piece = tuple[str, int | None, str | None]
"""Text, page, heading."""


def read(kind: Kind, data: bytes, charset: str = "") -> list[Part]:
    """Of Markdown, JSON or any other text. Raises DocumentError."""
    text = decode(data, charset)
    if kind in ("markdown", "notebook"):
        return require_text(list(sections(text if kind == "markdown" else _cells(text))))
    return require_text([Part(_readable(text) if kind == "json" else text)])


def require_text(parts: list[Part]) -> list[Part]:
    kept = [part for part in parts if part.text and not part.text.isspace()]
    if not kept:
        raise DocumentError("The document holds no text")
    return kept


def decode(data: bytes, charset: str = "") -> str:
    r"""Text with `\n` at line ends and without control characters.

    A byte order mark decides, then UTF-8 if the bytes are that, then the charset named. Bytes that fit none are
    damaged UTF-8 when most of what is not ASCII in them is UTF-8, and Windows-1252 else; what stays unreadable
    becomes U+FFFD, for readers to see. Raises DocumentError when it is no text at all.
    """
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return _tidy(data[len(mark) :].decode(encoding, "replace"))
    if b"\0" in data and (wide := _wide(data)):
        return _tidy(data.decode(wide, "replace"))
    if CHARSET.fullmatch(charset) and not _is_utf8(data):
        return _tidy(data.decode(charset, "replace"))
    _require_few(len(data) - len(data.translate(None, BINARY)), len(data))
    return _unix(_guessed(data.translate(None, CONTROLS)))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _guessed(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
        bad = text.count("\ufffd")
        good = len(text) - bad - len(data.translate(None, HIGH))
        return text if good > bad else data.decode("cp1252", "replace")


def _wide(data: bytes) -> str | None:
    """UTF-16 without its mark shows in that every other byte is mostly zero."""
    start = data[:4096]
    low, high = start[1::2].count(0), start[::2].count(0)
    if max(low, high) <= len(start) // 4 or min(low, high) > len(start) // 20:
        return None
    return "utf-16-le" if low > high else "utf-16-be"


def _tidy(text: str) -> str:
    _require_few(len(text) - len(_BINARY.sub("", text)), len(text))
    return _unix(_CONTROL.sub("", text))


def _require_few(controls: int, of: int) -> None:
    if controls > MAX_CONTROLS * of:
        raise DocumentError("The document is not text")


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _cells(text: str) -> str:
    """What people wrote into a notebook, as Markdown; its outputs, mostly pictures, are left out."""
    try:
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in orjson.loads(text)["cells"]]
    except (LookupError, TypeError, ValueError):
        raise DocumentError("The document is damaged: it is not a notebook") from None
    return "\n\n".join(source if kind == "markdown" else f"```\n{source}\n```" for kind, source in cells)


def _readable(text: str) -> str:
    r"""JSON whose letters are letters: `\u00e9` cannot be searched for. Signs that JSON needs escaped stay so."""
    return _ESCAPED.sub(_unescaped, text) if "\\u" in text else text


def _unescaped(found: re.Match[str]) -> str:
    units = [int(digits, 16) for digits in found[0].split("\\u")[1:]]
    if min(units) < 0xA0:
        return found[0]
    return b"".join(unit.to_bytes(2, "big") for unit in units).decode("utf-16-be", "replace")


def sections(text: str) -> Iterator[Part]:
    """Markdown, cut where its headings stand; each part begins with its heading's line."""
    start, heading = 0, None
    for at, title in _headings(text):
        if at > start:
            yield Part(text[start:at], start, heading=heading)
        start, heading = at, title or heading
    yield Part(text[start:], start, heading=heading)


def _headings(text: str) -> Iterator[tuple[int, str]]:
    fence = ""
    for found in _MARKS.finditer("\n" + text):
        if mark := found["fence"]:
            fence = mark if not fence else "" if mark.startswith(fence) else fence
        elif fence:
            continue
        elif found["title"] is not None:
            yield found.start(), _title(found["title"])
        elif title := _underlined(text, found.start()):
            yield title


def _underlined(text: str, end: int) -> tuple[int, str] | None:
    """The one line of a paragraph that ends here, and so is a heading by the line below it."""
    start = text.rfind("\n", 0, max(end - 1, 0)) + 1
    line = text[start : max(end - 1, 0)]
    alone = start < 2 or text[start - 2] == "\n"
    return (start, _title(line)) if alone and line[:1] not in ("", " ", "#", ">", "|", "-") else None


def _title(line: str) -> str:
    """Without the `##` that may close it; that of `C#` stays."""
    title = line.strip()
    bare = title.rstrip("#")
    is_closed = bare != title and (not bare or bare[-1].isspace())
    return (bare.rstrip() if is_closed else title)[:MAX_HEADING]


def assembled(pieces: Iterable[Piece]) -> list[Part]:
    """Parts of a text that did not exist before: two line ends stand between them. Raises DocumentError."""
    parts, offset = [], 0
    for text, page, heading in pieces:
        clean = _CONTROL.sub("", _unix(text)).strip("\n")
        if clean:
            parts.append(Part(clean, offset, page, heading))
            offset += len(clean) + 2
    return require_text(parts)
