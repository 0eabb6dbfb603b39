from __future__ import annotations

from codexos._sync.transport import Transport


class Rag:
    def __init__(self, transport: Transport):
        self._transport = transport
