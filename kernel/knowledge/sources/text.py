"""Texts that stand in the order itself."""

from collections.abc import AsyncGenerator

from kernel.knowledge.contract import Fetched, Found, content_version
from kernel.knowledge.sources.formats import text_type
from kernel.knowledge.sources.shapes import TextSource


class InlineText:
    def __init__(self, entry: TextSource):
        self._entry = entry
        self._data = entry.text.encode()

    async def list(self) -> AsyncGenerator[Found]:
        entry = self._entry
        yield Found(
            location=entry.location,
            title=entry.title or entry.location,
            source_type=entry.kind,
            version=content_version(self._data),
            size=len(self._data),
            metadata=entry.metadata,
        )

    async def fetch(self, found: Found) -> Fetched | None:
        name = self._entry.location
        return Fetched(self._data, name, text_type(name), content_version(self._data))
