"""The one place where an error becomes an answer: whatever was raised, it has the shape of `CodexError`."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson
import structlog
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from kernel.errors import (
    MAX_PROBLEMS,
    AuthenticationError,
    CodexError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Problem,
    ValidationError,
)

log = structlog.get_logger()

KEY = "[key]"
"""How pydantic marks that the name of a field is wrong, and not what it holds."""
REASONS = {
    "missing": "Required",
    "extra_forbidden": "Unknown field",
    "string_type": "Must be a string",
    "int_type": "Must be a whole number",
    "int_parsing": "Must be a whole number",
    "float_type": "Must be a number",
    "finite_number": "Must be a finite number",
    "bool_type": "Must be true or false",
    "dict_type": "Must be an object",
    "model_type": "Must be an object",
    "model_attributes_type": "Must be an object",
    "list_type": "Must be an array",
    "tuple_type": "Must be an array",
    "none_required": "Must be null",
    "string_pattern_mismatch": "Has characters that are not allowed here, or is too long",
}


async def answer(connection: HTTPConnection, error: Exception) -> Response:
    """Starlette's form of `respond`."""
    return respond(connection.scope, error)


def respond(scope: Scope, error: Exception) -> Response:
    """The answer to a request that raised `error`."""
    known = understood(scope, error)
    body = orjson.dumps({"error": known.body(scope.get("request_id"))})
    return Response(body, known.status, headers(scope, known), "application/json")


def understood(scope: Scope, error: Exception) -> CodexError:
    """`error` as one of our tree. What we did not foresee is recorded with its trace and called internal."""
    match error:
        case CodexError() if error.status != 500:
            return error
        case RequestValidationError():
            return _invalid(error.errors(), error.body)
        case WebSocketRequestValidationError():
            return _invalid(error.errors(), None)
        case HTTPException(status_code=404):
            return NotFound("No such route")
        case HTTPException(status_code=405):
            return MethodNotAllowed("The route does not take this method", {"allowed": allowed(scope)})
        case HTTPException() | ClientDisconnect():
            return ValidationError.at("body", "Could not be read")
    log.error("unforeseen", path=scope.get("path"), method=scope.get("method"), exc_info=error)
    return InternalError()


def headers(scope: Scope, error: CodexError) -> dict[str, str]:
    extra: dict[str, str] = {"cache-control": "no-store"}
    if isinstance(error, AuthenticationError):
        extra["www-authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        extra["allow"] = ", ".join(error.details["allowed"])
    if error.retry_after is not None:
        extra["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return extra


def allowed(scope: Scope) -> list[str]:
    """Every method that a route takes at this path; one of exactly this path hides those with parameters."""
    matching = [r for r in scope["app"].routes if isinstance(r, Route) and r.path_regex.match(scope["path"])]
    exact = [route for route in matching if route.path == scope["path"]]
    found = {method for route in exact or matching for method in route.methods or ()}
    return sorted(found | {"HEAD"} if "GET" in found else found)


def _invalid(errors: Sequence[Mapping[str, Any]], body: Any) -> ValidationError:
    return ValidationError.of("Invalid request", list(islice(_problems(errors, body), MAX_PROBLEMS)))


def _problems(errors: Sequence[Mapping[str, Any]], body: Any) -> Iterable[Problem]:
    seen: set[str] = set()
    for error in errors:
        field = field_path(error["loc"], body)
        if field not in seen:
            seen.add(field)
            yield Problem(field, reason(error))


def reason(error: Mapping[str, Any]) -> str:
    """One sentence about a pydantic error that repeats nothing of the input."""
    kind = error["type"]
    if kind in ("value_error", "assertion_error"):
        return str(error["ctx"]["error"])
    if kind in ("literal_error", "enum"):
        return f"Must be {error['ctx']['expected']}"
    return REASONS.get(kind) or re.sub(r"^(Input|String|List|Dictionary) should ", "Must ", error["msg"])


def field_path(location: Sequence[str | int], body: Any) -> str:
    """`("body", "flow", "nodes", 0, "id")` → `flow.nodes[0].id`.

    Names of union members, which pydantic puts between, are left out: walking the body, they lead nowhere. So is its
    mark for the name of a field that is wrong as such.
    """
    where, *parts = location
    if parts[-1:] == [KEY]:
        parts.pop()
    if where != "body":
        return str(parts[0]) if parts else str(where)
    path, here = "", body
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if isinstance(part, int):
            path, here = f"{path}[{part}]", _step(here, part)
        elif isinstance(here, Mapping) and (last or isinstance(here.get(part), Mapping | list)):
            path, here = f"{path}.{part}", here.get(part)
    return path.lstrip(".") or "body"


def _step(value: Any, index: int) -> Any:
    return value[index] if isinstance(value, list) and index < len(value) else None
