"""What all actors do alike: wait for the store, outlive its absence, and end their process when their work ends."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.errors import Unavailable
from kernel.logs import configure

log = structlog.get_logger()


async def opened_kernel(settings: Settings, **options: Any) -> tuple[Any, Kernel]:
    """The kernel, once the store is there: Ray gives up on an actor that cannot be made. Keep the first part."""
    configure(settings.log_level)
    while True:
        opening = Kernel.opened(settings, **options)
        try:
            return opening, await opening.__aenter__()
        except Unavailable as error:
            log.warning("waiting for the store", error=str(error))
            await asyncio.sleep(random.uniform(0.2, 0.6))


async def patient(loop: Callable[[], Awaitable[None]]) -> None:
    """Runs a loop without end: the store may go away and come back, and its actor outlives that."""
    while True:
        try:
            await loop()
        except Unavailable:
            await asyncio.sleep(random.uniform(0.05, 0.3))


def serve_or_exit(serving: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Runs an actor's loop for as long as the process lives; Ray starts another process when it ends."""

    def leave(task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            log.error("actor's loop ended", error=repr(task.exception()))
            os._exit(1)

    task = asyncio.create_task(serving)
    task.add_done_callback(leave)
    return task
