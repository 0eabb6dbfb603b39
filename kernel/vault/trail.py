"""What the audit log is told of the vault: every try, refused ones included."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from kernel.access.act import Act
from kernel.access.audit import AuditFilter, Format, Outcome, Trail
from kernel.errors import AuthorizationError
from kernel.ids import is_id
from kernel.paging import Page, PageQuery
from kernel.storage.vault import VaultStore

ACTIONS = ("credential.", "vault_token.", "vault_audit.")
MAX_TARGET = 64


@dataclass(frozen=True)
class VaultFilter(AuditFilter):
    """Only what was done or tried in the vault, or to one credential of it."""

    credential_id: str | None = None

    @property
    def fields(self) -> dict[str, str]:
        own = ("vault", "all") if self.credential_id is None else ("credential", self.credential_id)
        return super().fields | dict([own])

    def matches(self, entry: Mapping[str, Any]) -> bool:
        of_vault = str(entry["action"]).startswith(ACTIONS)
        known = all(entry[name] == value for name, value in super().fields.items())
        return of_vault and known and self.credential_id in (None, entry["target"])


class VaultTrail:
    def __init__(self, store: VaultStore, trail: Trail):
        self._store, self._trail = store, trail

    def entry(
        self,
        act: Act,
        action: str,
        target: str,
        details: Mapping[str, Any] | None = None,
        outcome: Outcome = "ok",
    ) -> str:
        """For the script that does it. target: a credential as it was named, a vault token, or empty."""
        return self._trail.text(act.who, act.origin, action, target[:MAX_TARGET], details, outcome)

    async def note(self, act: Act, action: str, target: str, details: Mapping[str, Any]) -> None:
        """Records what was refused."""
        entry = self.entry(act, action, target, details, "refused")
        await self._store.note(act.who.workspace_id, known(target), entry)

    @asynccontextmanager
    async def watching(self, act: Act, action: str, target: str) -> AsyncGenerator[None]:
        """Records it when what is done inside is refused for want of a right."""
        try:
            yield
        except AuthorizationError as error:
            await self.note(act, action, target, {"reason": error.message, **error.details})
            raise

    async def allow(self, act: Act, action: str, target: str) -> None:
        """Raises AuthorizationError for a key that is limited to some of what its workspace has."""
        async with self.watching(act, action, target):
            act.who.require_unlimited()

    async def list(self, act: Act, wanted: VaultFilter, query: PageQuery) -> Page[dict[str, Any]]:
        """Newest first. Raises AuthorizationError."""
        await self.allow(act, "vault_audit.read", "")
        return await self._trail.list(act.who.workspace_id, wanted, query)

    async def export(self, act: Act, wanted: VaultFilter, kind: Format) -> AsyncGenerator[bytes]:
        """The file in parts, oldest entry first. Raises AuthorizationError."""
        await self.allow(act, "vault_audit.read", "")
        return self._trail.export(act.who.workspace_id, wanted, kind)


def known(target: str) -> str | None:
    """A credential's id; None for what is none."""
    return target if is_id("cred", target) else None
