"""The courier's actor: it delivers webhooks for its share of the shards, for as long as its process lives."""

import asyncio
from functools import partial
from uuid import uuid4

from actors.hosting import opened_kernel, patient, serve_or_exit
from configs.settings import Settings
from kernel.storage import keys
from kernel.storage.subscriptions import Subscriptions
from kernel.webhooks.courier import Courier


async def serve(courier: Courier, subscriptions: Subscriptions) -> None:
    """Runs until it is told to end, and has."""
    over = asyncio.Event()
    await subscriptions.listen(keys.channel("outbox"), courier.told)
    await subscriptions.listen(keys.channel("drain"), lambda word: over.set() if word is not None else None)
    async with asyncio.TaskGroup() as group:
        work = [group.create_task(patient(courier.keep))]
        tended = (partial(courier.tend, shard) for shard in courier.shards.values())
        work += [group.create_task(patient(loop)) for loop in tended]
        await over.wait()
        await courier.land()
        for task in work:
            task.cancel()
    await courier.leave()


class CourierHost:
    """number: of this courier among all that there are; it serves every so-manyth shard."""

    async def __init__(self, name: str, number: int):  # type: ignore[misc]  # Ray awaits it
        settings = Settings()
        self._opened, kernel = await opened_kernel(settings, name=name)
        shards = range(number, keys.SHARDS, settings.webhooks.couriers)
        self._courier = kernel.courier(f"{name}-{uuid4().hex[:8]}", shards)
        self._serving = serve_or_exit(serve(self._courier, kernel.subscriptions))

    async def ready(self) -> str:
        return self._courier.name
