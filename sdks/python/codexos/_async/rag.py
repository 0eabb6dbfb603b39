from __future__ import annotations

from codexos._async.transport import AsyncTransport


class AsyncRag:
    def __init__(self, transport: AsyncTransport):
        self._transport = transport
