"""Whether a call that failed is tried again, and after how long."""

import random

from codexos._call import Call
from codexos.errors import APIConnectionError, APIStatusError, CodexOSError, NotFoundError

FIRST_S = 0.5
MOST_S = 8.0
PATIENCE_S = 60.0
"""A server that asks for more than this is not waited for."""


def pause(error: CodexOSError, attempt: int, most: int) -> float | None:
    """Seconds until the next try; None when there is none. attempt: how many retries were made before."""
    if attempt >= most or not is_passing(error):
        return None
    asked = error.retry_after if isinstance(error, APIStatusError) else None
    if asked is not None:
        return None if asked > PATIENCE_S else asked * (1 + random.random() / 10)
    return min(MOST_S, FIRST_S * 2.0**attempt) * (1 - random.random() / 4)


def is_passing(error: CodexOSError) -> bool:
    """Whether the same call may succeed a little later."""
    if not isinstance(error, APIStatusError):
        return isinstance(error, APIConnectionError)
    match error.status:
        case 409:
            return error.retryable is True
        case 429:
            return error.retryable is not False
        case status:
            return status == 408 or status >= 500


def is_gone(call: Call, error: CodexOSError) -> bool:
    """Whether a repeated DELETE finds that the first one, whose answer was lost, had done its work."""
    return call.method == "DELETE" and isinstance(error, NotFoundError)
