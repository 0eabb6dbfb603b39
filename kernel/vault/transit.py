"""KEKs in a KMS that speaks the Transit API of HashiCorp Vault and OpenBao: they never leave it.

Each wrap and unwrap is a call, so a secret opens only while the KMS is there and lets this installation in.
"""

import base64
from pathlib import Path

import httpx2
import orjson

from kernel.errors import CodexError, Unavailable
from kernel.sealing import Damaged, Wrapped

TIMEOUT_S = 5.0


class TransitKeys:
    """url: of the server; key: its name there; token_file: read with each call, so that a renewed token counts."""

    def __init__(self, url: str, key: str, token_file: Path):
        self._url, self._key, self._token_file = url.rstrip("/"), key, token_file
        self._client: httpx2.AsyncClient | None = None

    async def current(self) -> str:
        return f"{self._key}:v{await self._ask('GET', f'keys/{self._key}', None, 'latest_version')}"

    async def wrap(self, data_key: bytes, bound: bytes) -> Wrapped:
        body = {"plaintext": _text(data_key), "associated_data": _text(bound)}
        ciphertext = await self._ask("POST", f"encrypt/{self._key}", body, "ciphertext")
        _, _, rest = ciphertext.partition(":")
        version, _, sealed = rest.partition(":")
        if not sealed:
            raise _strange()
        return Wrapped(f"{self._key}:{version}", ciphertext.encode())

    async def unwrap(self, wrapped: Wrapped, bound: bytes) -> bytes:
        body = {"ciphertext": wrapped.key.decode("ascii", "replace"), "associated_data": _text(bound)}
        plain = await self._ask("POST", f"decrypt/{self._key}", body, "plaintext", refused=Damaged)
        try:
            return base64.b64decode(plain, validate=True)
        except ValueError:
            raise _strange() from None

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, str] | None,
        field: str,
        refused: type[CodexError] | None = None,
    ) -> str:
        """A field of the answer. Raises Unavailable, and `refused` for what the KMS finds wrong with the body."""
        try:
            token = self._token_file.read_text().strip()
            answer = await self._opened().request(
                method, f"{self._url}/v1/transit/{path}", json=body, headers={"x-vault-token": token}
            )
        except (httpx2.HTTPError, OSError, ValueError) as error:
            raise Unavailable("The KMS cannot be asked", {"reason": "kms"}) from error
        if answer.status_code == 400 and refused is not None:
            raise refused
        if answer.status_code != 200:
            raise Unavailable(f"The KMS answered {answer.status_code}", {"reason": "kms"})
        try:
            return str(orjson.loads(answer.content)["data"][field])
        except (ValueError, KeyError, TypeError):
            raise _strange() from None

    def _opened(self) -> httpx2.AsyncClient:
        """The operator's own address: it may be any, and no redirect leads away from it."""
        self._client = self._client or httpx2.AsyncClient(
            timeout=TIMEOUT_S, trust_env=False, follow_redirects=False
        )
        return self._client


def _strange() -> Unavailable:
    return Unavailable("The KMS answered what is no answer", {"reason": "kms"})


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
