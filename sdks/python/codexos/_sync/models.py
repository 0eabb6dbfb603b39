from __future__ import annotations

from collections.abc import Sequence

from codexos._call import Call, value_of
from codexos._sync.transport import Transport
from codexos.types.access import ModelInfo


class Models:
    def __init__(self, transport: Transport):
        self._transport = transport

    def list(self) -> Sequence[ModelInfo]:
        """Those that flows and collections may name."""
        answer = value_of(self._transport.send(Call("GET", "/models")))
        return [ModelInfo.read(one) for one in answer["models"]]
