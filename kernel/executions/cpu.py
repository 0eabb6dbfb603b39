"""CPU time of one coroutine among many that share a thread."""

import time
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Metered(Generic[T]):
    """Awaits `coroutine` and adds up the thread's CPU time of each of its steps in `seconds`."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]):
        self._coroutine = coroutine
        self.seconds = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        sent: Any = None
        error: BaseException | None = None
        while True:
            began = time.thread_time()
            try:
                step = self._coroutine.throw(error) if error is not None else self._coroutine.send(sent)
            except StopIteration as stop:
                value: T = stop.value
                return value
            finally:
                self.seconds += time.thread_time() - began
            try:
                sent, error = (yield step), None
            except BaseException as thrown:  # noqa: BLE001  handed on to the coroutine
                error = thrown
