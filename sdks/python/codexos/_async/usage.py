from __future__ import annotations

from datetime import date

from codexos._async.transport import AsyncTransport
from codexos._call import Call, given, value_of
from codexos.types.usage import Granularity, GroupBy, UsageStats


class AsyncUsage:
    def __init__(self, transport: AsyncTransport):
        self._transport = transport

    async def stats(
        self,
        *,
        start_date: date | None = None,
        end_date: date | None = None,
        granularity: Granularity | None = None,
        group_by: GroupBy | None = None,
    ) -> UsageStats:
        """What was used and what it cost from `start_date` to before `end_date`: dates (in UTC) or times."""
        query = given(start_date=start_date, end_date=end_date, granularity=granularity, group_by=group_by)
        response = await self._transport.send(Call("GET", "/usage/stats", query))
        return UsageStats.read(value_of(response))
