"""The vault: credentials, the tokens that open them, and what was done or tried with them.

The name of a route is the action that the audit log knows it by.
"""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Query
from pydantic import ConfigDict, JsonValue
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from kernel.access.act import Act
from kernel.access.audit import AuditFilter
from kernel.storage.vault import Listed
from kernel.vault.record import CredentialCreate, CredentialPatch, CredentialType, Rotation, TokenCreate
from kernel.vault.tokens import HEADER
from kernel.vault.trail import VaultFilter
from kernel.vault.vault import Wanted
from serve_apps import answers
from serve_apps.deps import Caller, CredentialId, Paging, Text, authorize, needs, origin_of, paged
from serve_apps.openapi import UNCACHED, gives, gives_nothing
from serve_apps.routes.audit import FILE, ID, FileFormat, file_of
from serve_apps.routes.audit import Wanted as WantedEntries
from serve_apps.routing import Route
from serve_apps.shapes import AuditPage
from serve_apps.vault_shapes import (
    CREDENTIAL,
    TOKEN_ID,
    CredentialDetail,
    CredentialPage,
    CredentialShape,
    NewVaultToken,
    RevealedCredential,
)


class VaultRoute(Route):
    """A refusal for want of a scope is written into the audit log, too."""

    async def admit(self, request: Request, scopes: Iterable[str]) -> None:
        act = Act(request.scope["principal"], origin_of(request))
        target = request.path_params.get("credential_id", "")
        async with request.app.state.kernel.vault.trail.watching(act, self.name, target):
            authorize(request, scopes)


router = APIRouter(prefix="/v1/vault", route_class=VaultRoute, tags=["vault"])

Lister = Annotated[Caller, needs("vault:list")]
Reader = Annotated[Caller, needs("vault:read")]
Admin = Annotated[Caller, needs("vault:admin")]
ORDER: JsonValue = {
    "name": "OpenAI API Key",
    "type": "api_key",
    "value": "sk-...",
    "tags": ["openai", "production"],
    "environment": "production",
}
OfCredential = Annotated[
    str | None, Query(pattern=ID, description="Only of this credential.", examples=[CREDENTIAL])
]
LARGEST = 524_288
"""Bytes of a body: its value may have 64 kB, and be escaped."""
TOKEN_HEADER: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": True,
    "description": "A vault token, see `POST /vault/tokens`.",
    "schema": {"type": "string"},
    "example": f"{TOKEN_ID}_7Qm2vXc8ZpLkR4tYbN1sWd6FgHj3KaE5uTiOoPqVxBy",
}


class NewCredential(CredentialCreate):
    """A credential to be kept. `value` is a text, or an object:

    - `oauth2`: `access_token`, or `token_url` with `client_id` and `client_secret` or a `refresh_token`; also `scope`,
      `token_type`, `expires_at`. Access tokens are renewed before they end. A text is the access token.
    - `certificate`: `certificate` (PEM), `private_key`, `chain`, `passphrase`.
    - `ssh_key`: `private_key`, `public_key`, `passphrase`, `username`.
    - `custom`: any.

    Names are unique in any case. One that is named or tagged like a model provider is the key for its models.
    """

    max_body: ClassVar = LARGEST

    model_config = ConfigDict(json_schema_extra={"examples": [ORDER]})


class CredentialChanges(CredentialPatch):
    """An absent field stays."""

    max_body: ClassVar = LARGEST

    model_config = ConfigDict(json_schema_extra={"examples": [{"tags": ["openai"]}]})


class NewValue(Rotation):
    """Of the same type as the one before."""

    max_body: ClassVar = LARGEST

    model_config = ConfigDict(json_schema_extra={"examples": [{"value": "sk-..."}]})


class TokenOrder(TokenCreate):
    """A token that opens `credential_ids`, or `all` of the workspace's, for `ttl_s` seconds and `max_uses` reads.

    With `key_id` it opens them only together with that API key.
    """

    max_body: ClassVar = 65_536

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"credential_ids": [CREDENTIAL], "ttl_s": 900, "max_uses": 1, "reason": "Look at the key"}
            ]
        }
    )


@router.get(
    "/credentials",
    name="credential.list",
    summary="List credentials",
    responses=gives(200, CredentialPage, "A page, newest first."),
)
async def index(
    caller: Lister,
    paging: Annotated[Paging, paged],
    kind: Annotated[CredentialType | None, Query(alias="type", description="Only of this type.")] = None,
    tag: Annotated[Text | None, Query(description="Only with this tag, in any case.")] = None,
    environment: Annotated[Text | None, Query(description="Only of this environment.")] = None,
    search: Annotated[Text | None, Query(description="Only with this in their name, in any case.")] = None,
) -> Response:
    """Without their values."""
    query, wanted = paging.of("cred"), Wanted(kind, tag, environment, search)
    return answers.listed(
        caller, "credentials", await caller.kernel.vault.list(caller.act, wanted, query), query
    )


@router.post(
    "/credentials",
    status_code=201,
    name="credential.create",
    summary="Store a credential",
    responses=gives(201, CredentialShape, "The credential, without its value."),
)
async def create(caller: Admin, order: NewCredential) -> Response:
    """Its value is sealed under a key of its own, and seen again only with a vault token."""
    made = await caller.kernel.vault.create(caller.act, order)
    path = f"/v1/vault/credentials/{made.id}"
    return answers.created(caller.kernel.vault.shown(made), path, made.etag)


@router.get(
    "/credentials/{credential_id}",
    name="credential.read",
    summary="Read a credential in the clear",
    responses=gives(200, RevealedCredential, "The credential with its value."),
    openapi_extra={"parameters": [TOKEN_HEADER]} | UNCACHED,
)
async def read(caller: Reader, credential_id: CredentialId) -> Response:
    """Takes a vault token. Each try is in the audit log; after five wrong tokens in a row the API key is locked out of
    the vault for 15 minutes (429, `details.limit` is `vault`)."""
    tokens = caller.connection.headers.getlist(HEADER)
    return answers.secret(await caller.kernel.vault.reveal(caller.act, credential_id, tokens))


@router.get(
    "/credentials/{credential_id}/metadata",
    name="credential.list",
    summary="Get a credential",
    responses=gives(200, CredentialDetail, "The credential, without its value, and what uses it."),
)
async def metadata(caller: Lister, credential_id: CredentialId) -> Response:
    """Without its value."""
    vault = caller.kernel.vault
    stored = await vault.get(caller.act, credential_id)
    body = answers.encode(vault.shown(stored) | {"used_by": await vault.used_by(caller.act, credential_id)})
    return answers.read(caller, body, f'"{stored.revision}.{answers.etag_of(body)[1:]}')


@router.patch(
    "/credentials/{credential_id}",
    name="credential.update",
    summary="Change a credential",
    responses=gives(200, CredentialShape, "The credential, without its value."),
)
async def update(caller: Admin, credential_id: CredentialId, patch: CredentialChanges) -> Response:
    """All but its value and type. One that agents go by is not renamed."""
    if_match = answers.if_match(caller)
    return _done(caller, await caller.kernel.vault.patch(caller.act, credential_id, patch, if_match))


@router.delete(
    "/credentials/{credential_id}",
    status_code=204,
    name="credential.delete",
    summary="Delete a credential",
    responses=gives_nothing(204, "Deleted, its value with it."),
)
async def delete(
    caller: Admin,
    credential_id: CredentialId,
    force: Annotated[
        bool, Query(description="Also while it is in use: its agents are in error then.")
    ] = False,
) -> Response:
    """Refused with CONFLICT while agents or collections use it; `details.used_by` names them."""
    if_match = answers.if_match(caller)
    await caller.kernel.vault.delete(caller.act, credential_id, if_match, force=force)
    return answers.no_content()


@router.post(
    "/credentials/{credential_id}/rotate",
    name="credential.rotate",
    summary="Rotate a credential",
    responses=gives(200, CredentialShape, "The credential, without its value."),
)
async def rotate(caller: Admin, credential_id: CredentialId, order: NewValue) -> Response:
    """Another value in place of the one before, which is gone."""
    return _done(caller, await caller.kernel.vault.rotate(caller.act, credential_id, order))


@router.get(
    "/credentials/{credential_id}/audit",
    name="vault_audit.read",
    summary="Read a credential's audit log",
    responses=gives(200, AuditPage, "A page, newest first."),
)
async def audit_of(
    caller: Admin, credential_id: CredentialId, paging: Annotated[Paging, paged], wanted: WantedEntries
) -> Response:
    """All that was done or tried with it."""
    await caller.kernel.vault.get(caller.act, credential_id)
    return await _entries(caller, paging, wanted, credential_id)


@router.post(
    "/tokens",
    status_code=201,
    name="vault_token.create",
    summary="Make a vault token",
    responses=gives(201, NewVaultToken, "The token, shown once."),
)
async def mint(caller: Admin, order: TokenOrder) -> Response:
    """It opens credentials for an hour at most, with an API key that has `vault:read`."""
    made = await caller.kernel.vault.tokens.mint(caller.act, order)
    opens = order.credential_ids or []
    path = "/".join(["/v1/vault/credentials", *opens]) if len(opens) == 1 else "/v1/vault/credentials"
    return answers.created(made, path, secret=True)


@router.get(
    "/audit",
    name="vault_audit.read",
    summary="Read the vault's audit log",
    responses=gives(200, AuditPage, "A page, newest first."),
)
async def audit(
    caller: Admin,
    paging: Annotated[Paging, paged],
    wanted: WantedEntries,
    credential_id: OfCredential = None,
) -> Response:
    """All that was done or tried in the vault. Entries are never changed and never deleted."""
    return await _entries(caller, paging, wanted, credential_id)


@router.get(
    "/audit/export",
    name="vault_audit.read",
    summary="Export the vault's audit log",
    responses=FILE,
    response_class=StreamingResponse,
)
async def export(
    caller: Admin,
    wanted: WantedEntries,
    credential_id: OfCredential = None,
    file_format: FileFormat = "jsonl",
) -> Response:
    """All of it, or what the filters leave, oldest first."""
    entries = _filter(wanted, credential_id)
    parts = await caller.kernel.vault.trail.export(caller.act, entries, file_format)
    return await file_of(parts, "vault-audit", file_format)


async def _entries(
    caller: Caller, paging: Paging, wanted: AuditFilter, credential_id: str | None
) -> Response:
    query = paging.of("evt")
    page = await caller.kernel.vault.trail.list(caller.act, _filter(wanted, credential_id), query)
    return answers.listed(caller, "entries", page, query)


def _filter(wanted: AuditFilter, credential_id: str | None) -> VaultFilter:
    return VaultFilter(
        wanted.action, wanted.user_id, wanted.key_id, wanted.after, wanted.before, credential_id
    )


def _done(caller: Caller, stored: Listed) -> Response:
    return answers.done(caller.kernel.vault.shown(stored), stored.etag)
