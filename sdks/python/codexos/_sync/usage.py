from __future__ import annotations

from datetime import date

from codexos._call import Call, given, value_of
from codexos._sync.transport import Transport
from codexos.types.usage import Granularity, GroupBy, UsageStats


class Usage:
    def __init__(self, transport: Transport):
        self._transport = transport

    def stats(
        self,
        *,
        start_date: date | None = None,
        end_date: date | None = None,
        granularity: Granularity | None = None,
        group_by: GroupBy | None = None,
    ) -> UsageStats:
        """What was used and what it cost from `start_date` to before `end_date`: dates (in UTC) or times."""
        query = given(start_date=start_date, end_date=end_date, granularity=granularity, group_by=group_by)
        response = self._transport.send(Call("GET", "/usage/stats", query))
        return UsageStats.read(value_of(response))
