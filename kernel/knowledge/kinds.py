"""What a document is: by its name and what its sender says, and by its bytes, which must agree."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal

from kernel.knowledge.contract import DocumentError, Fetched

Kind = Literal["pdf", "docx", "pptx", "xlsx", "epub", "html", "xml", "markdown", "json", "notebook", "text"]

NAMES: Mapping[Kind, str] = {
    "pdf": "a PDF",
    "docx": "a DOCX file",
    "pptx": "a PPTX file",
    "xlsx": "an XLSX file",
    "epub": "an EPUB book",
}
"""The kinds that are not text, as they are called."""

MAIN_PARTS: Mapping[Kind, str] = {
    "docx": "word/document.xml",
    "pptx": "ppt/presentation.xml",
    "xlsx": "xl/workbook.xml",
    "epub": "META-INF/container.xml",
}
"""What a ZIP container of the kind must hold."""

_EXTENSIONS: Mapping[str, Kind] = {
    **dict.fromkeys(("html", "htm", "xhtml"), "html"),
    **dict.fromkeys(("xml", "svg", "rss", "atom"), "xml"),
    **dict.fromkeys(("md", "markdown", "mdx"), "markdown"),
    **dict.fromkeys(("json", "jsonl", "ndjson"), "json"),
    "ipynb": "notebook",
    **dict.fromkeys(("txt", "csv", "tsv", "log", "rst"), "text"),
    **{kind: kind for kind in NAMES},
}
_OFFICE = "application/vnd.openxmlformats-officedocument."
_MEDIA_TYPES: Mapping[str, Kind] = {
    "application/pdf": "pdf",
    _OFFICE + "wordprocessingml.document": "docx",
    _OFFICE + "presentationml.presentation": "pptx",
    _OFFICE + "spreadsheetml.sheet": "xlsx",
    "application/epub+zip": "epub",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/xml": "xml",
    "application/xml": "xml",
    "image/svg+xml": "xml",
    "text/markdown": "markdown",
    "application/json": "json",
    "application/x-ndjson": "json",
    "application/x-ipynb+json": "notebook",
    "text/csv": "text",
}
_SUFFIXES: Mapping[str, Kind] = {"xml": "xml", "json": "json"}

_ZIP, _OLE, _PDF = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"%PDF-"
_RTF = b"{\\rtf"
_PDF_WITHIN = 1024
_SNIFFED = 512


def kind_of(fetched: Fetched) -> Kind:
    """Raises DocumentError when name and bytes contradict each other.

    A name such as `.pdf` is taken at its word, then checked, unless the sender says that it is plain text; else
    what the sender says outranks the name, which on the web is often that of a program; without both, the bytes
    decide.
    """
    media = media_type(fetched)
    named = _EXTENSIONS.get(PurePosixPath(fetched.name).suffix[1:].lower())
    if named in NAMES and media == "text/plain":
        named = None
    said = _MEDIA_TYPES.get(media) or _SUFFIXES.get(media.rpartition("+")[2])
    kind = (named if named in NAMES else said or named) or _sniffed(fetched.data)
    _check(kind, fetched.data)
    return kind


def media_type(fetched: Fetched) -> str:
    return (fetched.media_type or "").partition(";")[0].strip().lower()


def charset(fetched: Fetched) -> str:
    """As the sender says it, '' when it does not."""
    _, _, said = (fetched.media_type or "").lower().partition("charset=")
    return said.partition(";")[0].strip().strip("\"'")


def _sniffed(data: bytes) -> Kind:
    if _is_pdf(data):
        return "pdf"
    if data.startswith(_ZIP):
        return next((kind for kind, part in MAIN_PARTS.items() if part.encode() in data), "text")
    start = data[:_SNIFFED].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    return "xml" if start.startswith(b"<?xml") else "text"


def _check(kind: Kind, data: bytes) -> None:
    if not data:
        raise DocumentError("The document is empty")
    if kind == "pdf":
        fits = _is_pdf(data)
    elif kind in NAMES:
        _refuse_ole(kind, data)
        fits = data.startswith(_ZIP)
    else:
        _refuse_binary(data)
        fits = True
    if not fits:
        raise DocumentError(f"The document is not {NAMES[kind]}, although it is called one")


def _is_pdf(data: bytes) -> bool:
    return _PDF in data[:_PDF_WITHIN]


def _refuse_ole(kind: Kind, data: bytes) -> None:
    """The container of old Office files is also that of encrypted new ones."""
    if data.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in data:
            raise DocumentError("The document is protected by a password")
        raise DocumentError(f"The document is not {NAMES[kind]} but of an older format: save it anew")


def _refuse_binary(data: bytes) -> None:
    if data.startswith(_OLE):
        raise DocumentError("The document is of an older Office format, which cannot be read")
    if data.startswith(_PDF):
        raise DocumentError("The document is a PDF, although it is called something else")
    if data.startswith(_ZIP):
        raise DocumentError("The document is a ZIP archive, which cannot be read")
    if data.startswith(_RTF):
        raise DocumentError("The document is of the format RTF, which cannot be read")
