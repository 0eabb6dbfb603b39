"""Waiting, and work that would hold up the event loop. Written by hand, as its twin in `_sync`."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

sleep = asyncio.sleep


async def off_loop(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    return await asyncio.to_thread(work, *args, **options)
