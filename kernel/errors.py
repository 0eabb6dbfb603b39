"""Every error a caller can see, and the one shape they are shown in.

    CodexError
     ├─ AuthenticationError      401  key missing, malformed, unknown, expired or revoked
     ├─ AuthorizationError       403  scope, role or entitlement missing
     ├─ ValidationError          422  anything wrong in body, query, path or graph
     ├─ NotFound                 404  resource or route
     ├─ MethodNotAllowed         405
     ├─ Conflict                 409  stale ETag, idempotency mismatch, illegal state change
     ├─ PayloadTooLarge          413
     ├─ UnsupportedMediaType     415
     ├─ RateLimitError           429  `details.limit`: requests concurrent tokens ingest jobs budget vault
     ├─ InternalError            500  a bug
     ├─ Unavailable              503  a dependency is down, full or starting
     └─ NodeError                     a node of an execution failed (never an HTTP answer by itself)
         ├─ ProviderError             a model or HTTP provider answered wrongly
         └─ NodeTimeout               a node passed its own time limit

Constructors are positional so that the type survives an actor boundary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

MAX_PROBLEMS = 50


@dataclass(frozen=True, slots=True)
class Problem:
    """One defect of an input: `field` is a path such as `flow.nodes[0].config.model`."""

    field: str
    reason: str


class CodexError(Exception):
    """Base of the tree.

    message: one sentence for people. details: JSON-safe facts. retry_after: seconds, when known.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
    ):
        super().__init__(message, details, retry_after, retryable)
        self.message = message
        self.details = dict(details or {})
        self.retry_after = retry_after
        self.can_retry = type(self).retryable if retryable is None else retryable

    def __str__(self) -> str:
        return self.message

    def body(self, request_id: str | None = None) -> dict[str, Any]:
        """The `error` object of API answers, failed executions and WebSocket closes."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "details": self.details}
        if request_id is not None:
            error["request_id"] = request_id
        return error | {"retryable": self.can_retry, "docs_url": f"/docs/errors#{self.code}"}


class AuthenticationError(CodexError):
    code, status = "AUTHENTICATION_ERROR", 401

    def __init__(self, message: str = "Invalid or missing API key", *rest: Any):
        super().__init__(message, *rest)


class AuthorizationError(CodexError):
    code, status = "AUTHORIZATION_ERROR", 403


class ValidationError(CodexError):
    """`ValidationError.of(message, problems)` is the usual way in."""

    code, status = "VALIDATION_ERROR", 422

    @classmethod
    def of(cls, message: str, problems: Sequence[Problem]) -> "ValidationError":
        first = problems[0]
        return cls(
            message,
            {
                "field": first.field,
                "reason": first.reason,
                "errors": [{"field": p.field, "reason": p.reason} for p in problems[:MAX_PROBLEMS]],
            },
        )

    @classmethod
    def at(cls, field: str, reason: str, message: str = "Invalid request") -> "ValidationError":
        return cls.of(message, [Problem(field, reason)])


class NotFound(CodexError):
    code, status = "NOT_FOUND", 404

    def __init__(self, message: str = "Not found", *rest: Any):
        super().__init__(message, *rest)


class MethodNotAllowed(CodexError):
    code, status = "METHOD_NOT_ALLOWED", 405


class Conflict(CodexError):
    code, status = "CONFLICT", 409


class PayloadTooLarge(CodexError):
    code, status = "PAYLOAD_TOO_LARGE", 413


class UnsupportedMediaType(CodexError):
    code, status = "UNSUPPORTED_MEDIA_TYPE", 415


class RateLimitError(CodexError):
    code, status, retryable = "RATE_LIMIT_ERROR", 429, True


class InternalError(CodexError):
    code, status = "INTERNAL_ERROR", 500

    def __init__(self, message: str = "Something went wrong on our side", *rest: Any):
        super().__init__(message, *rest)


class Unavailable(CodexError):
    code, status, retryable = "UNAVAILABLE", 503, True

    def __init__(
        self,
        message: str,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = 1.0,
        retryable: bool | None = None,
    ):
        super().__init__(message, details, retry_after, retryable)


class NodeError(CodexError):
    code, status = "NODE_ERROR", 500


class ProviderError(NodeError):
    code = "PROVIDER_ERROR"


class NodeTimeout(NodeError):
    code, retryable = "NODE_TIMEOUT", True
