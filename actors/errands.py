"""The worker that runs one node where the resources are that it asked for, then ends."""

from collections.abc import AsyncGenerator, Callable

from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.executions.placement import Errand, Piece, carry_out
from kernel.logs import configure
from kernel.models.seam import ChatModel


class ErrandWorker:
    """model: the local model as this cluster offers it. place: tells the id of the cluster node it runs on."""

    def __init__(self, model: ChatModel, place: Callable[[], str], gpus: float):
        self._model, self._place, self._gpus = model, place, gpus

    async def run(self, errand: Errand) -> AsyncGenerator[Piece]:
        settings = Settings()
        configure(settings.log_level)
        async with Kernel.opened(settings, local=self._model, name="errand") as kernel:
            async for piece in carry_out(
                errand, kernel.node_types, kernel.secrets, self._place(), self._gpus
            ):
                yield piece
