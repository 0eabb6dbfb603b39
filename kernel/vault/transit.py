"""KEKs in a KMS that speaks the Transit API of HashiCorp Vault and OpenBao: they never leave it.

Each wrap and unwrap is a call, so a secret opens only while the KMS is there and lets this installation in.
"""

import base64
from pathlib import Path
from typing import Any

import httpx2
import orjson

from kernel.errors import Unavailable
from kernel.sealing import Damaged, Wrapped

TIMEOUT_S = 5.0


class TransitKeys:
    """url: of the server; key: its name there; token_file: read with each call, so that a renewed token counts."""

    def __init__(self, url: str, key: str, token_file: Path):
        self._url, self._key, self._token_file = url.rstrip("/"), key, token_file
        self._client: httpx2.AsyncClient | None = None

    async def current(self) -> str:
        told = await self._ask("GET", f"keys/{self._key}", None)
        return f"{self._key}:v{told['latest_version']}"

    async def wrap(self, data_key: bytes, bound: bytes) -> Wrapped:
        body = {"plaintext": _text(data_key), "associated_data": _text(bound)}
        ciphertext = str((await self._ask("POST", f"encrypt/{self._key}", body))["ciphertext"])
        return Wrapped(f"{self._key}:{ciphertext.split(':')[1]}", ciphertext.encode())

    async def unwrap(self, wrapped: Wrapped, bound: bytes) -> bytes:
        body = {"ciphertext": wrapped.key.decode("ascii", "replace"), "associated_data": _text(bound)}
        return base64.b64decode((await self._ask("POST", f"decrypt/{self._key}", body))["plaintext"])

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _ask(self, method: str, path: str, body: dict[str, str] | None) -> dict[str, Any]:
        """Raises Damaged for what the KMS cannot open, Unavailable when it cannot be asked."""
        try:
            token = self._token_file.read_text().strip()
            answer = await self._opened().request(
                method, f"{self._url}/v1/transit/{path}", json=body, headers={"x-vault-token": token}
            )
            if answer.status_code == 400:
                raise Damaged
            data = orjson.loads(answer.content)["data"] if answer.status_code == 200 else None
        except (httpx2.HTTPError, OSError, ValueError, KeyError) as error:
            raise Unavailable("The KMS cannot be asked", {"reason": "kms"}) from error
        if not isinstance(data, dict):
            raise Unavailable(f"The KMS answered {answer.status_code}", {"reason": "kms"})
        return data

    def _opened(self) -> httpx2.AsyncClient:
        """The operator's own address: it may be any, and no redirect leads away from it."""
        self._client = self._client or httpx2.AsyncClient(
            timeout=TIMEOUT_S, trust_env=False, follow_redirects=False
        )
        return self._client


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
