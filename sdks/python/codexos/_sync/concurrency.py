"""Waiting, and work that would hold up an event loop. Written by hand, as its twin in `_async`."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

sleep = time.sleep


def off_loop(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    return work(*args, **options)
