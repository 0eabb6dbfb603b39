"""What a route is given: who calls, with what right, and the kernel to work with.

A route names the scope it needs as `Annotated[Caller, needs("agents:read")]`; `authorize` holds it to that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Path, Query, Security
from fastapi.security import SecurityScopes
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.requests import HTTPConnection

from kernel.access.act import Act
from kernel.access.audit import Origin
from kernel.access.principal import Principal
from kernel.assembly import Kernel
from kernel.ids import Prefix
from kernel.paging import PageQuery
from kernel.storage.idempotency import IdempotencyRef


@dataclass(frozen=True, slots=True)
class Caller:
    """One authorised request. `idempotency` is its claim on an `Idempotency-Key`, when it sent one."""

    who: Principal
    kernel: Kernel
    connection: HTTPConnection

    @property
    def workspace_id(self) -> str:
        return self.who.workspace_id

    @property
    def origin(self) -> Origin:
        """For the audit log."""
        return origin_of(self.connection)

    @property
    def act(self) -> Act:
        return Act(self.who, self.origin, self.record, self.created_before)

    @property
    def idempotency(self) -> IdempotencyRef | None:
        return cast(IdempotencyRef | None, self.connection.scope.get("idempotency"))

    @property
    def record(self) -> str:
        """The key where a creating script notes what it created; empty for none."""
        return self.idempotency.record if self.idempotency else ""

    @property
    def created_before(self) -> str | None:
        """What an earlier, lost try of this same request had created."""
        return self.idempotency.resource if self.idempotency else None


def origin_of(connection: HTTPConnection) -> Origin:
    client = connection.client
    return Origin(connection.scope["request_id"], client.host if client else "")


def authorize(connection: HTTPConnection, scopes: Iterable[str]) -> Principal:
    """Who calls. Raises AuthorizationError when the key lacks one of the scopes."""
    who: Principal = connection.scope["principal"]
    for scope in scopes:
        who.require(scope)
    return who


async def caller(connection: HTTPConnection, scopes: SecurityScopes) -> Caller:
    return Caller(authorize(connection, scopes.scopes), connection.app.state.kernel, connection)


def needs(*scopes: str) -> Any:
    """The marker that a route takes a caller with these scopes; none: any valid key."""
    return Security(caller, scopes=list(scopes))


def is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _whole(text: object) -> object:
    if isinstance(text, str) and not is_whole(text):
        raise PydanticCustomError("int_parsing", "Must be a whole number")
    return text


Whole = BeforeValidator(_whole)
Text = Annotated[str, Query(min_length=1, max_length=256)]


@dataclass(frozen=True, slots=True)
class Paging:
    page: int
    limit: int
    cursor: str | None

    def of(self, prefix: Prefix) -> PageQuery:
        return PageQuery.of(self.page, self.limit, self.cursor, prefix)


PageNumber = Annotated[int, Field(ge=1, le=100_000_000), Whole, Query(description="Page number, 1-based.")]
Limit = Annotated[int, Field(ge=1, le=100), Whole, Query(description="Items of a page.")]


async def paging(
    page: PageNumber = 1,
    limit: Limit = 20,
    cursor: Annotated[
        str | None,
        Query(
            min_length=1, max_length=128, description="`next_cursor` of the page before; `page` is ignored."
        ),
    ] = None,
) -> Paging:
    return Paging(page, limit, cursor)


async def numbering(page: PageNumber = 1, limit: Limit = 20) -> PageQuery:
    """For lists that have no cursors."""
    return PageQuery(page, limit)


paged = Depends(paging)
numbered = Depends(numbering)


AgentId = Annotated[str, Path(description="An agent's id.", examples=["agent_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])]
ExecutionId = Annotated[
    str, Path(description="An execution's id.", examples=["exec_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
]
KeyId = Annotated[str, Path(description="An API key's id.", examples=["key_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])]
WorkspaceId = Annotated[
    str, Path(description="A workspace's id.", examples=["ws_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
]
CredentialId = Annotated[
    str, Path(description="A credential's id.", examples=["cred_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
]
UserId = Annotated[str, Path(description="A user's id.", examples=["user_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])]
