"""Pages of what stands in several sets, against a plain filter."""

from collections.abc import Mapping

import pytest

from kernel.paging import PageQuery
from kernel.storage import keys, meeting
from kernel.storage.store import Store

pytestmark = pytest.mark.anyio

WS = "ws_1"
IDS = [f"exec_{number:04}" for number in range(200)]
SETS: Mapping[str, list[str]] = {"even": IDS[::2], "third": IDS[::3], "late": IDS[100:]}


@pytest.fixture
async def stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(meeting, "STRETCH", 7)
    for value, ids in SETS.items():
        name = keys.key("executions_by", WS, field=value, value=value)
        await store.call("ZADD", name, *(part for one in ids for part in (0, one)))
    return store


@pytest.mark.parametrize("filters", [("even", "third"), ("even", "third", "late"), ("third", "late")])
@pytest.mark.parametrize(("low", "high"), [("-", "+"), ("[exec_0050", "(exec_0150"), ("[exec_0199", "+")])
@pytest.mark.parametrize(("page", "before"), [(1, None), (2, None), (9, None), (1, "exec_0120")])
async def test_the_page_and_the_total_are_those_of_a_filter(
    stored: Store, filters: tuple[str, ...], low: str, high: str, page: int, before: str | None
) -> None:
    query = PageQuery(page, 5, before)
    found = await meeting.meeting(
        stored, WS, "executions", {name: name for name in filters}, (low, high), query
    )
    inside = [
        one
        for one in reversed(IDS)
        if all(one in SETS[name] for name in filters)
        and (low == "-" or one >= low[1:])
        and (high == "+" or one < high[1:])
    ]
    after = [one for one in inside if before is None or one < before]
    assert found == (after[query.offset : query.offset + 6], len(inside))
