"""The text of PDF, DOCX, PPTX, XLSX and EPUB, by kreuzberg, after what is packed has been looked at.

A ZIP container is unpacked here, within bounds, and only its texts are handed on, in a container made anew: so
what was judged is what is read. Runs in a process that may be lost: see `parser_worker`.
"""

import re
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from zipfile import BadZipFile, ZipFile, ZipInfo

from kreuzberg import ConcurrencyConfig, ExtractionConfig, ExtractionResult, PageConfig, extract_bytes_sync
from kreuzberg.exceptions import KreuzbergError

from kernel.knowledge.contract import DocumentError, Part
from kernel.knowledge.kinds import MAIN_PARTS, NAMES, Kind
from kernel.knowledge.plain import Piece, assembled, sections

MAX_ENTRIES = 10_000
MAX_UNPACKED = 256 * 2**20
MAX_RATIO = 200
UNSUSPICIOUS = 16 * 2**20
"""Bytes that may come of any container, however well it is packed."""

_MEDIA_TYPE: Mapping[Kind, str] = {
    "pdf": "application/pdf",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "epub": "application/epub+zip",
}
_TEXTS = (".xml", ".rels", ".xhtml", ".html", ".htm", ".opf", ".ncx", "mimetype")
_ENCRYPTED = 1
_UNREADABLE = (BadZipFile, NotImplementedError, OSError, EOFError, ValueError, zlib.error)

_REFERENCE = re.compile(rb"&(amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});")
_NAMED = {b"amp": "&", b"lt": "<", b"gt": ">", b"quot": '"', b"apos": "'"}
_STANDINS = {character: chr(0xFDD0 + n) for n, character in enumerate("&<>\"'")}
_BACK = {ord(standin): character for character, standin in _STANDINS.items()}
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")


def read(kind: Kind, data: bytes) -> list[Part]:
    """Raises DocumentError; MemoryError when it does not fit."""
    if kind == "pdf":
        return assembled(_pages(_extracted(kind, data, PageConfig(extract_pages=True))))
    texts = repacked(kind, data)
    if kind == "pptx":
        mark = "slide" + secrets.token_hex(8)
        paging = PageConfig(
            extract_pages=True, insert_page_markers=True, marker_format=f"\n\n{mark} {{page_num}}\n\n"
        )
        return assembled(_slides(_extracted(kind, texts, paging).content, mark))
    parts = sections(_extracted(kind, texts).content)
    if kind == "epub":
        return assembled((part.text, None, part.heading) for part in parts)
    return assembled((_plain(part.text), None, part.heading and _plain(part.heading)) for part in parts)


def _extracted(kind: Kind, data: bytes, pages: PageConfig | None = None) -> ExtractionResult:
    config = ExtractionConfig(
        use_cache=False,
        enable_quality_processing=False,
        pages=pages,
        output_format="markdown",
        concurrency=ConcurrencyConfig(max_threads=1),
    )
    try:
        return extract_bytes_sync(data, _MEDIA_TYPE[kind], config)
    except KreuzbergError as error:
        if "password" in str(error).lower():
            raise DocumentError("The document is protected by a password") from None
        raise _damaged() from None


def warm() -> None:
    """Starts the library's threads."""
    extract_bytes_sync(b"warm", "text/plain", ExtractionConfig(use_cache=False))


def _damaged() -> DocumentError:
    return DocumentError("The document is damaged and cannot be read")


def _pages(result: ExtractionResult) -> Iterator[Piece]:
    """A hyphen at a line's end comes as a control character, which falls away: the word is whole again."""
    for page in result.pages or ():
        yield page["content"], page["page_number"], None


def _slides(text: str, mark: str) -> Iterator[Piece]:
    """mark: the word that stands before the number of each slide, on a line of its own."""
    _, *rest = re.split(rf"^{mark} (\d+)$", text, flags=re.M)
    for number, slide in zip(rest[::2], rest[1::2], strict=True):
        heading = next((part.heading for part in sections(slide) if part.heading), None)
        yield _plain(slide), int(number), heading and _plain(heading)


def _plain(text: str) -> str:
    """Markdown of the library without its backslashes (a book's has none), and with what was hidden from it."""
    return _ESCAPE.sub(r"\1", text).translate(_BACK)


def repacked(kind: Kind, data: bytes) -> bytes:
    """A container of its texts alone, not compressed. Raises DocumentError."""
    out = BytesIO()
    try:
        with ZipFile(BytesIO(data)) as packed, ZipFile(out, "w") as anew:
            for name, text in _texts(kind, packed, len(data)):
                anew.writestr(ZipInfo(name), text)
    except _UNREADABLE:
        raise _damaged() from None
    return out.getvalue()


def _texts(kind: Kind, packed: ZipFile, size: int) -> Iterator[tuple[str, bytes]]:
    entries = {entry.filename: entry for entry in packed.infolist()}
    if len(entries) > MAX_ENTRIES:
        raise DocumentError(f"The document has more than {MAX_ENTRIES:,} parts")
    if MAIN_PARTS[kind] not in entries:
        raise DocumentError(f"The document is not {NAMES[kind]}, although it is called one")
    room = min(MAX_UNPACKED, max(UNSUSPICIOUS, MAX_RATIO * size))
    for entry in _wanted(entries.values()):
        text = _unpacked(packed, entry, room)
        room -= len(text)
        _refuse_entities(kind, text)
        yield entry.filename, _without_references(text) if _is_word(entry) else text


def _wanted(entries: Iterable[ZipInfo]) -> Iterator[ZipInfo]:
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED:
            raise DocumentError("The document is protected by a password")
        if entry.filename.lower().endswith(_TEXTS):
            yield entry


def _unpacked(packed: ZipFile, entry: ZipInfo, room: int) -> bytes:
    """At most what there is room for, whatever the entry says of itself."""
    if entry.file_size <= room:
        with packed.open(entry) as file:
            text = file.read(room + 1)
        if len(text) <= room:
            return text
    raise DocumentError(
        f"The document unpacks to more than {MAX_UNPACKED >> 20} MB, or to far more than its size"
    )


def _refuse_entities(kind: Kind, text: bytes) -> None:
    """A book's pages may name the DTD of HTML; none may declare entities. Zeros fall away: it may be UTF-16."""
    seen = text.replace(b"\0", b"") if b"\0" in text else text
    if b"<!ENTITY" in seen or (kind != "epub" and b"<!DOCTYPE" in seen):
        raise DocumentError("The document declares XML entities or a DTD, which are not read")


def _is_word(entry: ZipInfo) -> bool:
    return entry.filename.startswith("word/") and entry.filename.endswith(".xml")


def _without_references(text: bytes) -> bytes:
    """kreuzberg 4 loses references such as `&amp;` in DOCX (not elsewhere): what they stand for, or, for what XML
    reserves, a stand-in that no text may have, takes their place."""
    return _REFERENCE.sub(_resolved, text)


def _resolved(found: re.Match[bytes]) -> bytes:
    name = found[1]
    character = _NAMED.get(name) or _numbered(name)
    return _STANDINS.get(character, character).encode()


def _numbered(name: bytes) -> str:
    number = int(name[2:], 16) if name[1:2] == b"x" else int(name[1:])
    legal = number in (9, 10, 13) or 0x20 <= number < 0xD800 or 0xE000 <= number <= 0x10FFFF
    return chr(number) if legal else ""
