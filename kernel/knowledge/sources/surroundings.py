"""What sources stand on: the guard, the limits, and where uploads and credentials come from."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from configs.settings import Ingestion
from kernel.errors import NotFound
from kernel.knowledge.contract import SourceError
from kernel.outbound import Egress


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that a caller sent. size: bytes. version: changes with its content. read: all of it."""

    name: str
    size: int
    version: str
    read: Callable[[], Awaitable[bytes]]
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """uploads: an `upload_…` id to the file. credential: a `cred_…` id to its fields, a plain value as `value`.
    Both raise NotFound."""

    egress: Egress
    settings: Ingestion
    uploads: Callable[[str], Awaitable[Upload]]
    credential: Callable[[str], Awaitable[Mapping[str, str]]]

    @property
    def max_bytes(self) -> int:
        """Of one document."""
        return self.settings.max_document_mb * 1_000_000

    async def secrets(self, credential_id: str | None) -> Mapping[str, str]:
        """Without an id, none. Raises SourceError."""
        if credential_id is None:
            return {}
        try:
            return await self.credential(credential_id)
        except NotFound:
            raise SourceError(f"There is no credential '{credential_id}'") from None
