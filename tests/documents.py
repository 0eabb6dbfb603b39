"""Makes small files of the formats that ingestion reads, by hand, so that tests can make them wrong as well."""

import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZipFile

from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, StreamObject, TextStringObject

OFFICE = "http://schemas.openxmlformats.org"
DRAWING, SLIDES = f"{OFFICE}/drawingml/2006/main", f"{OFFICE}/presentationml/2006/main"
RELATED = f"{OFFICE}/officeDocument/2006/relationships"
SHEETS, WORD = f"{OFFICE}/spreadsheetml/2006/main", f"{OFFICE}/wordprocessingml/2006/main"

Files = Mapping[str, str | bytes]


def zipped(files: Files) -> bytes:
    out = BytesIO()
    with ZipFile(out, "w", ZIP_DEFLATED) as container:
        for name, content in files.items():
            container.writestr(name, content)
    return out.getvalue()


def pdf(*pages: str, password: str | None = None, script: str | None = None) -> bytes:
    """A page for each text, its lines one below the other; '' is a page without text."""
    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(612, 792)
        if text:
            names = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
            font = DictionaryObject({NameObject(key): NameObject(value) for key, value in names.items()})
            fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
            page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
            lines = b" T* ".join(b"(%b) Tj" % line.encode("latin-1") for line in text.split("\n"))
            content = StreamObject()
            content.set_data(b"BT /F1 12 Tf 72 720 Td 14 TL " + lines + b" ET")
            page[NameObject("/Contents")] = writer._add_object(content)
    if script:
        action = {NameObject("/S"): NameObject("/JavaScript"), NameObject("/JS"): TextStringObject(script)}
        writer.root_object[NameObject("/OpenAction")] = DictionaryObject(action)
    if password is not None:
        writer.encrypt(password)
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def image_pdf() -> bytes:
    """A page that is a picture, as a scanner makes it."""
    pixels = zlib.compress(b"\x7f" * 64)
    return raw_pdf(
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 8 8]/Resources<</XObject<</I 5 0 R>>>>/Contents 4 0 R>>",
        b"<</Length 23>>stream\nq 8 0 0 8 0 0 cm /I Do Q\nendstream",
        b"<</Type/XObject/Subtype/Image/Width 8/Height 8/ColorSpace/DeviceGray/BitsPerComponent 8"
        b"/Filter/FlateDecode/Length %d>>stream\n%b\nendstream" % (len(pixels), pixels),
    )


def raw_pdf(*objects: bytes) -> bytes:
    """Object 3, the only page, and those that follow it."""
    head = (b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>")
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(head + objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(offsets) + 1
    trailer = b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (size, len(body))
    return body + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + trailer


def _package(main: str, parts: Files) -> dict[str, str | bytes]:
    default = '<Default Extension="xml" ContentType="text/xml"/>'
    types = f'<Types xmlns="{OFFICE}/package/2006/content-types">{default}</Types>'
    return {
        "[Content_Types].xml": types,
        "_rels/.rels": _relations({"rId1": (f"{RELATED}/officeDocument", main)}),
        **parts,
    }


def _relations(targets: Mapping[str, tuple[str, str]]) -> str:
    lines = (f'<Relationship Id="{n}" Type="{kind}" Target="{to}"/>' for n, (kind, to) in targets.items())
    return f'<Relationships xmlns="{OFFICE}/package/2006/relationships">{"".join(lines)}</Relationships>'


def docx(*paragraphs: str | tuple[int, str], more: Files | None = None) -> bytes:
    """Paragraphs are XML text; a number before one makes it a heading of that level."""
    lines = (line if isinstance(line, tuple) else (0, line) for line in paragraphs)
    body = "".join(
        f"<w:p>{_style(level)}<w:r><w:t xml:space='preserve'>{text}</w:t></w:r></w:p>"
        for level, text in lines
    )
    document = f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    return zipped(_package("word/document.xml", {"word/document.xml": document, **(more or {})}))


def _style(level: int) -> str:
    return f'<w:pPr><w:pStyle w:val="Heading{level}"/></w:pPr>' if level else ""


def xlsx(sheets: Mapping[str, Sequence[Sequence[str]]]) -> bytes:
    names = enumerate(sheets, 1)
    entries = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>' for n, name in names)
    parts = {
        "xl/workbook.xml": f'<workbook xmlns="{SHEETS}" xmlns:r="{RELATED}"><sheets>{entries}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": _relations(
            {
                f"rId{n}": (f"{RELATED}/worksheet", f"worksheets/sheet{n}.xml")
                for n in range(1, len(sheets) + 1)
            }
        ),
    }
    for n, rows in enumerate(sheets.values(), 1):
        parts[f"xl/worksheets/sheet{n}.xml"] = _sheet(rows)
    return zipped(_package("xl/workbook.xml", parts))


def _sheet(rows: Sequence[Sequence[str]]) -> str:
    lines = "".join(
        f'<row r="{n}">'
        + "".join(
            f'<c r="{chr(65 + m)}{n}" t="inlineStr"><is><t>{cell}</t></is></c>' for m, cell in enumerate(row)
        )
        + "</row>"
        for n, row in enumerate(rows, 1)
    )
    return f'<worksheet xmlns="{SHEETS}"><sheetData>{lines}</sheetData></worksheet>'


def pptx(*slides: tuple[str, str]) -> bytes:
    """A title and a text for each slide, as XML text."""
    ids = "".join(f'<p:sldId id="{255 + n}" r:id="rId{n}"/>' for n in range(1, len(slides) + 1))
    show = f'<p:presentation xmlns:p="{SLIDES}" xmlns:r="{RELATED}"><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>'
    parts = {
        "ppt/presentation.xml": show,
        "ppt/_rels/presentation.xml.rels": _relations(
            {f"rId{n}": (f"{RELATED}/slide", f"slides/slide{n}.xml") for n in range(1, len(slides) + 1)}
        ),
    }
    for n, (title, text) in enumerate(slides, 1):
        shapes = _shape("title", title) + _shape("body", text)
        parts[f"ppt/slides/slide{n}.xml"] = (
            f'<p:sld xmlns:p="{SLIDES}" xmlns:a="{DRAWING}"><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>'
        )
    return zipped(_package("ppt/presentation.xml", parts))


def _shape(kind: str, text: str) -> str:
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="1" name="x"/><p:cNvSpPr/><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>'
        f"<p:spPr/>"
        f"<p:txBody><a:bodyPr/><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"
    )


def epub(*chapters: tuple[str, str]) -> bytes:
    """A heading and a text for each chapter, as XML text."""
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
        '<rootfile full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    numbers = range(len(chapters))
    items = "".join(
        f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in numbers
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in numbers)
    book = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata/>'
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    pages = {
        f"c{n}.xhtml": f'<!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><body><h1>{heading}</h1>'
        f"<p>{text}</p></body></html>"
        for n, (heading, text) in enumerate(chapters)
    }
    files = {"mimetype": "application/epub+zip", "META-INF/container.xml": container, "book.opf": book}
    return zipped(files | pages)
