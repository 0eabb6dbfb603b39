"""Every error that this package raises.

    CodexOSError                        also: no key, no such file, an answer that is none of the API's
     ├─ APIConnectionError              no answer came
     │   └─ APITimeoutError             none came in time
     ├─ APIStatusError                  the answer is an error
     │   ├─ AuthenticationError    401  key missing, unknown, expired or revoked
     │   ├─ PermissionDeniedError  403  scope, role or entitlement missing
     │   ├─ NotFoundError          404  none such, or none of this workspace
     │   ├─ ConflictError          409  changed meanwhile, in use, or not possible in its state
     │   ├─ UnprocessableEntityError 422  something in the request is wrong: `details` names the field
     │   ├─ RateLimitError         429  `limit` is requests, concurrent, jobs, tokens or budget
     │   ├─ InternalServerError    5xx  a bug on the other side
     │   └─ UnavailableError       503  something there is down or starting
     ├─ WaitTimeoutError                what was waited for goes on; only the waiting ended
     └─ WebhookVerificationError        a webhook got what is not from here, or not from now

All can be pickled, so they come back whole from a Ray task.
"""

import email.utils
import time
from collections.abc import Mapping
from typing import Any

import httpx2


class CodexOSError(Exception):
    """Base of the tree."""


class APIConnectionError(CodexOSError):
    """The server could not be reached, or hung up."""


class APITimeoutError(APIConnectionError):
    """The server did not answer in time."""


class WaitTimeoutError(CodexOSError, TimeoutError):
    """It has not ended in the time that was given; it goes on."""


class WebhookVerificationError(CodexOSError):
    """It is not what the platform sent, or it was sent at another time."""


class APIStatusError(CodexOSError):
    """error: the `error` object of the answer. retry_after: seconds, when the server named them.

    `code` is the API's, such as `NOT_FOUND`; `HTTP_502` when the answer was not the API's own.
    `retryable` is None when the server did not say.
    """

    def __init__(self, status: int, error: Mapping[str, Any], retry_after: float | None = None):
        super().__init__(status, error, retry_after)
        self.status = status
        self.code: str = error.get("code") or f"HTTP_{status}"
        self.message: str = error.get("message") or "The answer is no answer of the API"
        self.details: dict[str, Any] = error.get("details") or {}
        self.request_id: str | None = error.get("request_id")
        self.retryable: bool | None = error.get("retryable")
        self.retry_after = retry_after

    def __str__(self) -> str:
        field, reason = self.details.get("field"), self.details.get("reason")
        where = f": {field}: {reason}" if field else ""
        return f"{self.status} {self.code}: {self.message}{where} (request {self.request_id})"


class AuthenticationError(APIStatusError):
    pass


class PermissionDeniedError(APIStatusError):
    pass


class NotFoundError(APIStatusError):
    pass


class ConflictError(APIStatusError):
    pass


class UnprocessableEntityError(APIStatusError):
    @property
    def errors(self) -> list[dict[str, str]]:
        """Everything that is wrong, each with `field` and `reason`."""
        found: list[dict[str, str]] = self.details.get("errors", [])
        return found


class RateLimitError(APIStatusError):
    @property
    def limit(self) -> str | None:
        """Which limit was reached: `requests`, `concurrent`, `jobs`, `tokens` or `budget`."""
        return self.details.get("limit")


class InternalServerError(APIStatusError):
    pass


class UnavailableError(APIStatusError):
    pass


BY_STATUS: dict[int, type[APIStatusError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    503: UnavailableError,
}


def error_of(status: int, body: object, headers: Mapping[str, str]) -> APIStatusError:
    """The error that an answer tells of. body: the parsed JSON, or anything else."""
    error = body.get("error") if isinstance(body, Mapping) else None
    known: dict[str, Any] = dict(error) if isinstance(error, Mapping) else {}
    known.setdefault("request_id", headers.get("x-request-id"))
    kind = BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    return kind(status, known, seconds_of(headers.get("retry-after")))


def seconds_of(text: str | None) -> float | None:
    """`Retry-After` in seconds, from a number or a date; None when it says neither."""
    try:
        return max(0.0, float(text or ""))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text or "").timestamp() - time.time())
    except ValueError:
        return None


def disconnected(error: httpx2.RequestError) -> APIConnectionError:
    """What httpx2 raised, as ours."""
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx2.TimeoutException):
        return APITimeoutError(f"No answer in time: {reason}")
    return APIConnectionError(f"No answer: {reason}")
