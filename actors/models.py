"""The worker that runs the local model for all runners of a cluster."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from configs.settings import Settings
from kernel.errors import ProviderError
from kernel.logs import configure
from kernel.models.local import PACKAGE, LocalModel, weights
from kernel.models.seam import ChatRequest, Finish, TextDelta


class ModelWorker:
    """Holds only the loaded model, and remembers when it was last of use."""

    def __init__(self) -> None:
        configure(Settings().log_level)
        file = weights()
        self._model = LocalModel(file) if file is not None else None
        self._used = time.monotonic()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        if self._model is None:
            raise ProviderError(f"The local model is not installed: the package {PACKAGE} is missing")
        try:
            async with aclosing(self._model.stream(request)) as items:
                async for item in items:
                    yield item
        finally:
            self._used = time.monotonic()

    async def idle_s(self) -> float:
        """Seconds since its last answer; 0 while it computes."""
        busy = self._model is not None and self._model.busy
        return 0.0 if busy else time.monotonic() - self._used
