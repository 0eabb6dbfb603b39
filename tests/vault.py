"""A vault as one replica has it, for tests without HTTP."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kernel.access.access import Access
from kernel.access.act import Act
from kernel.access.principal import Principal
from kernel.clock import ManualClock
from kernel.outbound import Egress
from kernel.paging import PageQuery
from kernel.sealing import Envelope
from kernel.storage import keys
from kernel.storage.store import Store
from kernel.storage.vault import VaultStore
from kernel.vault.custody import FileKeys
from kernel.vault.record import CredentialCreate, TokenCreate
from kernel.vault.tokens import VaultTokens
from kernel.vault.trail import VaultFilter, VaultTrail
from kernel.vault.vault import Vault
from tests.access import PEPPER

SECRET = "sk-CANARY-0123456789"


class Safe:
    """A workspace's vault, and the member who works with it."""

    def __init__(self, store: Store, clock: ManualClock, access: Access, who: Principal, folder: Path):
        self._redis, self.store, self.clock = store, VaultStore(store), clock
        trail = VaultTrail(self.store, access.trail)
        self.envelope = Envelope(FileKeys(folder / "secrets" / "kek.json").make())
        tokens = VaultTokens(self.store, trail, clock, PEPPER)
        self.vault = Vault(self.store, self.envelope, trail, tokens, clock, Egress().check_url)
        self.act = Act(who)

    @property
    def ws(self) -> str:
        return self.act.who.workspace_id

    async def kept(self, name: str = "Key", kind: str = "api_key", value: Any = SECRET, **more: Any) -> str:
        """The id of a new credential."""
        order = CredentialCreate.model_validate({"name": name, "type": kind, "value": value} | more)
        return (await self.vault.create(self.act, order)).id

    async def token(self, **order: Any) -> str:
        order = {"reason": "test"} | ({} if "credential_ids" in order else {"all": True}) | order
        made: str = (await self.vault.tokens.mint(self.act, TokenCreate.model_validate(order)))["token"]
        return made

    async def read(self, credential_id: str, *tokens: str, key: str | None = None) -> Any:
        """The value. key: another API key that asks."""
        who = self.act.who if key is None else replace(self.act.who, key_id=key)
        return (await self.vault.reveal(Act(who), credential_id, tokens))["value"]

    async def entries(self, **wanted: Any) -> list[dict[str, Any]]:
        """Of the audit log, as they were written."""
        page = await self.vault.trail.list(self.act, VaultFilter(**wanted), PageQuery(1, 100))
        order = await self._redis.call("LRANGE", keys.key("audit_order", self.ws), 0, -1)
        return sorted(page.items, key=lambda entry: order.index(entry["id"].encode()))

    async def tries(self) -> list[tuple[str, str | None]]:
        """Outcome and reason of every try to read."""
        found = await self.entries(action="credential.read")
        return [(entry["outcome"], entry["details"].get("reason")) for entry in found]
