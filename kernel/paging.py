"""Pages of lists that are newest first: by number, or by cursor in constant time."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kernel.errors import ValidationError
from kernel.ids import Prefix, is_id

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageQuery:
    """`before` is the id that the wanted page begins after, when a cursor was given."""

    page: int = 1
    limit: int = 20
    before: str | None = None

    @property
    def offset(self) -> int:
        return 0 if self.before else (self.page - 1) * self.limit

    @classmethod
    def of(cls, page: int, limit: int, cursor: str | None, prefix: Prefix) -> "PageQuery":
        """Raises ValidationError for a cursor that this API did not make."""
        return cls(page, limit, _opened(cursor, prefix) if cursor is not None else None)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """`more` says whether anything follows; `last_id` is where the next page begins."""

    items: list[T]
    total: int
    last_id: str | None
    more: bool

    def pagination(self, query: PageQuery) -> dict[str, Any]:
        pages = -(-self.total // query.limit)
        return {"page": query.page, "limit": query.limit, "total": self.total, "pages": pages}

    @property
    def next_cursor(self) -> str | None:
        if not self.more or self.last_id is None:
            return None
        return base64.urlsafe_b64encode(self.last_id.encode()).decode().rstrip("=")


def _opened(cursor: str, prefix: Prefix) -> str:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if not is_id(prefix, text):
        raise ValidationError.at("cursor", "Not a cursor of this list: use next_cursor as it was given")
    return text
