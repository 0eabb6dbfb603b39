from __future__ import annotations

from collections.abc import Sequence

from codexos._async.transport import AsyncTransport
from codexos._call import Call, value_of
from codexos.types.access import ModelInfo


class AsyncModels:
    def __init__(self, transport: AsyncTransport):
        self._transport = transport

    async def list(self) -> Sequence[ModelInfo]:
        """Those that flows and collections may name."""
        answer = value_of(await self._transport.send(Call("GET", "/models")))
        return [ModelInfo.read(one) for one in answer["models"]]
