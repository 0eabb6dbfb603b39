"""The OpenAPI 3.1 document: FastAPI's, with all that a route can answer and what it needs to be called."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import orjson
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from kernel.errors import (
    AuthenticationError,
    AuthorizationError,
    CodexError,
    Conflict,
    InternalError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RateLimitError,
    Unavailable,
    UnsupportedMediaType,
    ValidationError,
)
from serve_apps.routing import Route
from serve_apps.samples import sample
from serve_apps.shapes import ErrorAnswer
from serve_apps.webhook_shapes import SENT, SENT_HEADERS, sent

Answers = dict[int | str, dict[str, Any]]

TITLE, VERSION = "CodexOS API", "v1"
DESCRIPTION = "Runs AI agents durably and streams what they do. Every route is also served under `/api/v1`."

ERRORS: dict[type[CodexError], str] = {
    AuthenticationError: "The key is missing, malformed, unknown, expired or revoked.",
    AuthorizationError: "The key lacks the scope, or is restricted.",
    NotFound: "There is no such resource in this workspace.",
    Conflict: "The state forbids it, the ETag is stale, or the Idempotency-Key is of another request.",
    PayloadTooLarge: "The body is too large.",
    UnsupportedMediaType: "The body is not application/json.",
    ValidationError: "Something in path, query or body is wrong; `details.errors` lists all of it.",
    RateLimitError: "A limit was reached; `details.limit` says which: `requests`, `concurrent` (executions), `tokens` "
    "or `ingest` (of the day), `jobs` (of ingestion, at once), `budget`, or `vault` (wrong tokens).",
    InternalError: "A bug on our side; it is logged under the request id.",
    Unavailable: "The store is away, full or starting; try again after `Retry-After` seconds.",
}
UNROUTED: dict[type[CodexError], str] = {
    MethodNotAllowed: "The route does not take this method; `Allow` lists those that it takes.",
}
BY_STATUS = {error.status: error for error in ERRORS}

HEADERS = {
    "X-Request-Id": (
        "Names the request in logs and errors.",
        "string",
        "req_01JZ8XJ4T2QK5V9W3M7N6P1R8S",
    ),
    "Retry-After": ("Seconds after which to try again.", "integer", 4),
    "X-RateLimit-Plan": ("The workspace's plan.", "string", "free"),
    "X-RateLimit-Limit": (
        "Requests that may come at once. Absent, like the following, without a limit.",
        "integer",
        50,
    ),
    "X-RateLimit-Remaining": ("How many of them are left.", "integer", 49),
    "X-RateLimit-Reset": (
        "When all of them are there again, in seconds since 1970.",
        "integer",
        1_764_000_000,
    ),
    "RateLimit-Policy": (
        "The limits: `q` requests in `w` seconds.",
        "string",
        '"burst";q=50;w=180, "hour";q=1000;w=3600',
    ),
    "RateLimit": (
        "Where the caller stands: `r` requests are left, `t` seconds until the burst is whole.",
        "string",
        '"burst";r=49;t=4',
    ),
}
LIMITS = tuple(name for name in HEADERS if "RateLimit" in name)
"""Told to whoever has a key."""

PARAMETERS = {
    "IdempotencyKey": (
        "Idempotency-Key",
        "Makes the request safe to repeat for 24 h.",
        {"minLength": 1, "maxLength": 255},
    ),
    "IfNoneMatch": ("If-None-Match", "An ETag: 304 when nothing has changed.", {}),
    "IfMatch": ("If-Match", "An ETag: refused with CONFLICT when the resource has changed since.", {}),
}


UNCACHED: dict[str, Any] = {"x-no-store": True}
"""For a route's `openapi_extra`: a read that is not to be kept."""


def gives(status: int, model: type[BaseModel], description: str) -> Answers:
    """For a route's `responses`: what it answers when all is well."""
    return {status: {"model": model, "description": description}}


def gives_nothing(status: int, description: str) -> Answers:
    return {status: {"description": description}}


def fails(*statuses: int) -> Answers:
    """For a route's `responses`: errors beyond those that every route of its kind can give."""
    return {status: {"description": ERRORS[BY_STATUS[status]]} for status in statuses}


class Document:
    """The document of these routes, made when it is first asked for."""

    def __init__(self, routes: Iterable[Any]):
        self._routes = [route for route in routes if isinstance(route, Route)]

    @cached_property
    def value(self) -> dict[str, Any]:
        return _document(self._routes)

    @cached_property
    def text(self) -> bytes:
        return orjson.dumps(self.value)


def _document(listed: list[Route]) -> dict[str, Any]:
    made = get_openapi(title=TITLE, version=VERSION, description=DESCRIPTION, routes=listed)
    made["servers"] = [{"url": "/"}]
    for route in listed:
        for method in route.methods or ():
            _complete(made["paths"][route.path_format][method.lower()], route, method)
    _share(made["components"])
    schemas = made["components"]["schemas"]
    made["webhooks"] = {event: {"post": _told_outside(event, schemas)} for event in SENT}
    for methods in (*made["paths"].values(), *made["webhooks"].values()):
        for operation in methods.values():
            _illustrate(operation, schemas)
    return made


def _told_outside(event: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """What receivers of an event get; the models of its body are added to the schemas."""
    summary, body, model = sent(event)
    of_data = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= of_data.pop("$defs", {}) | {model.__name__: of_data}
    headers = [
        {
            "name": name,
            "in": "header",
            "required": True,
            "description": text,
            "schema": {"type": "string"},
            "example": example,
        }
        for name, (text, example) in SENT_HEADERS.items()
    ]
    return {
        "tags": ["webhooks"],
        "operationId": event,
        "summary": summary,
        "description": f"Sent to the webhooks of a workspace that want `{event}`.",
        "parameters": headers,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "2XX": {"description": "Taken. Anything else, and no answer within 15 s, is tried again."},
            "410": {"description": "Nothing more is wanted: the webhook is disabled."},
        },
    }


def _illustrate(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Gives bodies, answers and parameters the examples that they do not have."""
    parts = [operation.get("requestBody", {}), *operation["responses"].values()]
    for media in (media for part in parts for media in part.get("content", {}).values()):
        media.setdefault("example", sample(media["schema"], schemas))
    for parameter in operation["parameters"]:
        if "$ref" not in parameter and not {"example", "examples"} & parameter.keys():
            parameter["example"] = sample(parameter["schema"], schemas)


def _complete(operation: dict[str, Any], route: Route, method: str) -> None:
    """Adds security, header parameters and error answers to one operation."""
    if route.scopes is not None:
        operation["security"] = [{"bearer": []}]
        operation["x-scopes"] = route.scopes
    parameters = operation.setdefault("parameters", [])
    cached = not operation.get("x-no-store", False)
    for name in _headers(method, guarded=route.scopes is not None, cached=cached):
        parameters.append({"$ref": f"#/components/parameters/{name}"})
    answers = operation["responses"]
    for status in {*_usual(route, method), *(int(s) for s in answers if int(s) >= 400)}:
        answers[str(status)] = {"$ref": f"#/components/responses/{BY_STATUS[status].__name__}"}
    if (
        method == "GET"
        and route.scopes is not None
        and cached
        and "application/json" in answers.get("200", {}).get("content", ())
    ):
        answers.setdefault("304", {"description": "Unchanged since `If-None-Match`."})
    told = {"X-Request-Id", *(LIMITS if route.scopes is not None else ())}
    for status, answer in answers.items():
        if int(status) < 400:
            answer["headers"] = _told(told)
    operation["responses"] = dict(sorted(answers.items()))


def _headers(method: str, guarded: bool, cached: bool) -> Iterator[str]:
    if not guarded or (method == "GET" and not cached):
        return
    if method == "POST":
        yield "IdempotencyKey"
    elif method == "GET":
        yield "IfNoneMatch"
    else:
        yield "IfMatch"


def _usual(route: Route, method: str) -> Iterator[int]:
    yield from (422, 500, 503)
    if route.scopes is not None:
        yield from (401, 403, 429)
    if "{" in route.path:
        yield 404
    if method != "GET":
        yield 409
    if method in ("POST", "PATCH", "PUT"):
        yield from (413, 415)


def _share(components: dict[str, Any]) -> None:
    schemas = components["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    model = ErrorAnswer.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(model.pop("$defs"))
    schemas["ErrorAnswer"] = model
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key: `cxk_<env>_<id>_<secret>`.",
        }
    }
    components["headers"] = {
        name: {"description": text, "schema": {"type": kind}, "example": example}
        for name, (text, kind, example) in HEADERS.items()
    }
    components["parameters"] = {
        name: {
            "name": header,
            "in": "header",
            "required": False,
            "description": text,
            "schema": {"type": "string"} | extra,
        }
        for name, (header, text, extra) in PARAMETERS.items()
    }
    components["responses"] = {error.__name__: _failure(error, text) for error, text in ERRORS.items()}


def _failure(error: type[CodexError], text: str) -> dict[str, Any]:
    shown = error(text).body("req_01JZ8XJ4T2QK5V9W3M7N6P1R8S")
    content = {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}, "example": {"error": shown}}
    told = {"X-Request-Id"}
    if error is not AuthenticationError:
        told.update(LIMITS)
    if error in (RateLimitError, Unavailable):
        told.add("Retry-After")
    return {"description": text, "headers": _told(told), "content": {"application/json": content}}


def _told(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS if name in set(names)}
