"""Trying again what may succeed later: a bounded number of times, after waits that no two callers share."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from kernel.errors import CodexError

T = TypeVar("T")


async def patiently(waits_s: Sequence[float], action: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Raises what the last try raised, or at once what is not retryable."""
    for wait in waits_s:
        try:
            return await action(*args)
        except CodexError as error:
            if not error.can_retry:
                raise
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
    return await action(*args)
