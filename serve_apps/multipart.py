"""The one file of a multipart form, as it arrives: never all of it in memory, and no further than its limit."""

from collections.abc import AsyncGenerator, Mapping
from hashlib import sha256

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from kernel.errors import PayloadTooLarge, UnsupportedMediaType, ValidationError
from kernel.text import clean_name

FIELD = "file"
AROUND = 65_536
"""Bytes of a body that are not of its file, at most."""
MAX_NAME = 256


class IncomingFile:
    """`parts` is to be read first; then name, size, digest and media_type (as the sender says it, or '') are known.

    Raises UnsupportedMediaType. most: bytes of the file.
    """

    def __init__(self, request: Request, most: int):
        self.name, self.media_type, self.size = "", "", 0
        self._request, self._most, self._hash = request, most, sha256()
        self._header, self._headers = (bytearray(), bytearray()), dict[str, bytes]()
        self._parser = MultipartParser(_boundary(request.headers), self._callbacks())  # type: ignore[arg-type]
        self._arrived: list[bytes] = []
        self._fields = 0
        self._ended = False

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    async def parts(self) -> AsyncGenerator[bytes]:
        """Raises PayloadTooLarge as soon as it is known, ValidationError when it is no form with one file."""
        if int(self._request.headers.get("content-length", 0)) > self._most + AROUND:
            raise self._too_large()
        taken = 0
        async for piece in self._request.stream():
            taken += len(piece)
            if taken > self._most + AROUND:
                raise self._too_large()
            self._feed(piece)
            for part in self._arrived:
                yield part
            self._arrived.clear()
        if not self._ended:
            raise ValidationError.at(FIELD, "Is cut off" if self._fields else "Required")
        if self.size == 0:
            raise ValidationError.at(FIELD, "Must not be empty")

    def _feed(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except FormParserError:
            raise ValidationError.at("body", "Is no multipart form") from None

    def _callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._keep_header,
            "on_headers_finished": self._open,
            "on_part_data": self._take,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._fields += 1
        self._headers = {}

    def _keep_header(self) -> None:
        name, value = self._header
        self._headers[name.decode("latin-1").lower()] = bytes(value)
        name.clear()
        value.clear()

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        if self._fields > 1 or options.get(b"name") != FIELD.encode():
            raise ValidationError.at("body", f"Must have one field, '{FIELD}'")
        self.name = _name(options.get(b"filename", b""))
        self.media_type = self._headers.get("content-type", b"").decode("latin-1")[:MAX_NAME]

    def _take(self, data: bytes, start: int, end: int) -> None:
        part = bytes(data[start:end])
        self.size += len(part)
        if self.size > self._most:
            raise self._too_large()
        self._hash.update(part)
        self._arrived.append(part)

    def _end(self) -> None:
        self._ended = True

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The file is larger than {self._most / 1e6:g} MB", {"field": FIELD, "limit_bytes": self._most}
        )


def _boundary(headers: Mapping[str, str]) -> bytes:
    kind, options = parse_options_header(headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        kinds = ["multipart/form-data"]
        raise UnsupportedMediaType(
            "Send the file as multipart/form-data with a boundary", {"supported": kinds}
        )
    return boundary


def _name(raw: bytes) -> str:
    """The last part of what the sender calls the file."""
    try:
        return clean_name(raw.decode().replace("\\", "/").rpartition("/")[2], MAX_NAME)
    except ValueError as error:
        reason = "must be UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ValidationError.at(FIELD, f"The file name {reason}") from None
