"""The metering actor: the one place that grants requests. It takes them from the workspaces' buckets in Redis for all
replicas, a batch at a time. It holds no truth: killed, it starts again and the same asks get the same answers."""

from collections.abc import Sequence

from configs.settings import Settings
from kernel.logs import configure
from kernel.storage.meter import MeterStore, Packed
from kernel.storage.store import Store


class MeteringHost:
    """Opens no kernel, so that it is back soon."""

    async def __init__(self) -> None:  # type: ignore[misc]  # Ray awaits it
        settings = Settings()
        configure(settings.log_level)
        self._meter = MeterStore(Store(settings.store.url, "metering"))

    async def settle(self, steps: Sequence[Packed]) -> list[bytes]:
        """Asks and answers stay packed. Raises Unavailable while the store is away."""
        return await self._meter.settle_packed(steps)

    async def ready(self) -> None:
        """Answers once it runs."""
