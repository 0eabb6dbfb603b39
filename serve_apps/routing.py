"""A route that is strict before FastAPI looks: scope, query, body, and `Idempotency-Key` on every POST."""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from kernel.access.principal import Principal
from kernel.errors import Problem, ValidationError
from kernel.storage.idempotency import Answer, Idempotency
from serve_apps import body
from serve_apps.deps import authorize, caller, is_whole

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Reader = Callable[[Request], Coroutine[Any, Any, None]]

KEPT_HEADERS = ("content-type", "location", "etag", "cache-control")
MAX_KEY = 255
MAX_FIELDS = 100
WRITES = frozenset({"POST", "PATCH", "PUT"})


class Route(APIRoute):
    @property
    def scopes(self) -> list[str] | None:
        """What it needs of a key; None when no key is asked for."""
        for part in _tree(self.dependant):
            if part.call is caller:
                return part.own_oauth_scopes or []
        return None

    @property
    def _largest_body(self) -> int | None:
        """Bytes, where the shape of the body names a lower limit than the settings."""
        shape = self.body_field.field_info.annotation if self.body_field else None
        return getattr(shape, "max_body", None)

    @property
    def _needs_body(self) -> bool:
        return self.body_field is not None and self.body_field.field_info.is_required()

    async def admit(self, request: Request, scopes: Iterable[str]) -> None:
        """Raises AuthorizationError when the key lacks one of the scopes."""
        authorize(request, scopes)

    def body_reader(self) -> Reader:
        """What reads the body, once, before it is known whether the request was answered already."""
        wanted = self.body_field is not None
        return partial(load_body, wanted=wanted, needed=self._needs_body, most=self._largest_body)

    def get_route_handler(self) -> Handler:
        handle, scopes = super().get_route_handler(), self.scopes
        known = frozenset(p.alias for part in _tree(self.dependant) for p in part.query_params)
        writes, take_body = bool(WRITES.intersection(self.methods or ())), self.body_reader()

        async def strict(request: Request) -> Response:
            if scopes is not None:
                await self.admit(request, scopes)
            if request.scope["query_string"]:
                check_query(request.scope["query_string"], known)
            if writes:
                await take_body(request)
                if request.method == "POST" and "idempotency-key" in request.headers:
                    return await once(request, handle)
            return await handle(request)

        return strict


def _tree(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for part in dependant.dependencies:
        yield from _tree(part)


def check_query(query: bytes, known: frozenset[str]) -> None:
    """Raises ValidationError for a parameter that the route does not have, or that comes twice."""
    try:
        names = [
            name for name, _ in parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
        ]
    except ValueError:
        raise ValidationError.at("query", "Must be UTF-8, percent-encoded") from None
    problems = [Problem(name[:64], "Unknown query parameter") for name in names if name not in known]
    problems += [Problem(name, "Given more than once") for name in known if names.count(name) > 1]
    if problems:
        raise ValidationError.of("Invalid query", problems)


async def load_body(request: Request, wanted: bool, needed: bool, most: int | None) -> None:
    """Reads and parses the body once; FastAPI finds both in the request. One that is not needed may be empty."""
    limit: int = request.app.state.settings.api.max_body_mb * 1_000_000
    raw = await body.read(request, limit if most is None else min(limit, most))
    request._body = raw
    if not needed and not raw:
        return
    body.check_headers(request.headers)
    value = await body.parsed(raw) if raw else None
    if not isinstance(value, dict):
        raise ValidationError.at("body", "Must be a JSON object")
    if len(value) > MAX_FIELDS:
        raise ValidationError.at("body", f"Must have at most {MAX_FIELDS} fields, not {len(value)}")
    if value and not wanted:
        raise ValidationError.of("Invalid request", [Problem(name[:64], "Unknown field") for name in value])
    request._json = value


async def once(request: Request, handle: Handler) -> Response:
    """Does the work of a POST unless the same request was answered before."""
    memory, token = request.app.state.kernel.idempotency, request.scope["token"]
    who: Principal = request.scope["principal"]
    claim = await memory.begin(
        who.workspace_id, _name(request, who), await fingerprint(request, memory), _takes_ms(request), token
    )
    if isinstance(claim, Answer):
        return Response(claim.body, claim.status, claim.headers | {"idempotent-replayed": "true"})
    request.scope["idempotency"] = claim
    finished = False
    try:
        response = await handle(request)
        kept = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        secret = token if kept.get("cache-control") == "no-store" else None
        await memory.finish(claim, Answer(response.status_code, kept, bytes(response.body)), secret)
        finished = True
        return response
    finally:
        if not finished:
            await memory.abandon(claim)


async def fingerprint(request: Request, memory: Idempotency) -> str:
    path, query = request.scope["path"].encode(), request.scope["query_string"]
    return memory.fingerprint(request.method.encode(), path, query, await request.body())


def _name(request: Request, who: Principal) -> str:
    """A limited key has names of its own: what others were answered is beyond its limits."""
    return f"{who.key_id}\n{_key(request)}" if who.limited else _key(request)


def _key(request: Request) -> str:
    keys = request.headers.getlist("idempotency-key")
    if (
        len(keys) != 1
        or not 1 <= len(keys[0]) <= MAX_KEY
        or not (keys[0].isascii() and keys[0].isprintable())
    ):
        raise ValidationError.at("Idempotency-Key", f"Must be 1 to {MAX_KEY} printable ASCII characters")
    return keys[0]


def _takes_ms(request: Request) -> int:
    wait = request.query_params.get("wait", "0")
    return min(int(wait), 60) * 1000 if is_whole(wait) else 0
