"""Where documents come from: one `Source` for each entry of an ingest order."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from kernel.knowledge.contract import Fetched, Found, Source, SourceError
from kernel.knowledge.sources.file import Bucket, UploadedFile
from kernel.knowledge.sources.github import Repository, remote_url
from kernel.knowledge.sources.shapes import FileSource, GithubSource, SourceEntry, TextSource, UrlSource
from kernel.knowledge.sources.surroundings import Surroundings, Upload
from kernel.knowledge.sources.text import InlineText
from kernel.knowledge.sources.url import Site, WebPage

__all__ = ["SourceEntry", "Surroundings", "Upload", "lack", "open_source", "refusal"]

_Source = WebPage | Site | Repository | Bucket | UploadedFile | InlineText


def open_source(entry: SourceEntry, around: Surroundings) -> Source:
    """Nothing is read before `list` or `fetch`; either works without the other, on any machine."""
    return _Counted(_source(entry, around), around.settings.max_documents)


def refusal(entry: SourceEntry, around: Surroundings) -> str | None:
    """Why the entry's `location` may not be read, as far as it can be told without looking anything up."""
    if isinstance(entry, UrlSource):
        return around.egress.check_url(entry.location)
    if isinstance(entry, GithubSource):
        try:
            remote_url(entry, around)
        except SourceError as error:
            return str(error)
    return None


def _source(entry: SourceEntry, around: Surroundings) -> _Source:
    match entry:
        case UrlSource():
            return Site(entry, entry.crawl, around) if entry.crawl else WebPage(entry, around)
        case GithubSource():
            return Repository(entry, around)
        case FileSource():
            return UploadedFile(entry, around) if entry.is_upload else Bucket(entry, around)
        case TextSource():
            return InlineText(entry)


class _Counted:
    """A source that lists too many documents fails."""

    def __init__(self, source: _Source, most: int):
        self._source, self._most = source, most

    async def list(self) -> AsyncGenerator[Found]:
        count = 0
        async with aclosing(self._source.list()) as listed:
            async for found in listed:
                count += 1
                if count > self._most:
                    raise SourceError(f"The source has more than {self._most} documents")
                yield found

    async def fetch(self, found: Found) -> Fetched | None:
        return await self._source.fetch(found)
