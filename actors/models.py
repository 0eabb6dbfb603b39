"""The worker that runs the local model for all runners."""

from collections.abc import AsyncGenerator
from pathlib import Path

from kernel.models.local import LocalModel
from kernel.models.seam import ChatRequest, Finish, TextDelta


class ModelWorker:
    """`file` is the model's weights, `threads` the CPUs it computes on. Holds nothing but the loaded model."""

    def __init__(self, file: str, threads: int):
        self._model = LocalModel(Path(file), threads)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        async for item in self._model.stream(request):
            yield item
