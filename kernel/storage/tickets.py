"""Tickets that open one stream once: what browsers use, which cannot send a key with a WebSocket.

Stored: `ticket` (string, under the ticket's hash): execution and API key id; lives 30 s.
"""

from hashlib import sha256
from secrets import token_urlsafe

from kernel.errors import AuthenticationError
from kernel.storage import keys
from kernel.storage.store import Store

LIVES_S = 30


class Tickets:
    def __init__(self, store: Store):
        self._store = store

    async def issue(self, execution_id: str, key_id: str) -> str:
        """A ticket for one stream of this execution, in the name of an API key."""
        ticket = token_urlsafe(32)
        await self._store.call("SET", _name(ticket), f"{execution_id} {key_id}", "EX", LIVES_S)
        return ticket

    async def redeem(self, ticket: str, execution_id: str) -> str:
        """The key it was issued to; from then on it is void. Raises AuthenticationError."""
        found = await self._store.call("GETDEL", _name(ticket))
        bound, _, key_id = (found or b"").decode().partition(" ")
        if bound != execution_id:
            raise AuthenticationError("Invalid or used stream ticket")
        return str(key_id)


def _name(ticket: str) -> str:
    return keys.global_key("ticket", id=sha256(ticket.encode()).hexdigest())
