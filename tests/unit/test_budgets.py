"""Budgets in the store: what is spent of them, whom they tell, what they refuse, and how much they leave."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from kernel.clock import ManualClock
from kernel.errors import Conflict, RateLimitError
from kernel.executions.budget import Budget as Bounds
from kernel.storage import keys
from kernel.storage.budgets import Budget, BudgetStore, Length, UnknownIds, begins_again
from kernel.storage.embedded import Embedded, EmbeddedStore
from kernel.storage.outbox import OutboxStore
from kernel.storage.store import Store
from tests.unit.test_ends import NOW, SPENT, WS, Desk

pytestmark = pytest.mark.anyio

DAY_MS = 86_400_000


class Office(Desk):
    """A desk with budgets."""

    def __init__(self, store: Store):
        super().__init__(store)
        self.budgets = BudgetStore(store)

    async def put(self, *budgets: Budget, mark: str = "", now: int = NOW) -> str:
        return (await self.budgets.replace(WS, now, mark, budgets)).mark

    async def spent(self, now: int = NOW) -> list[int]:
        return [one.spent for one in (await self.budgets.read(WS, now)).budgets]

    async def reached(self, now: int = NOW) -> list[tuple[int | None, ...]]:
        return [one.reached for one in (await self.budgets.read(WS, now)).budgets]

    async def told(self) -> list[dict[str, Any]]:
        """What an endpoint is told that wants it."""
        rows = await OutboxStore(self.store).rows(keys.shard_of(WS), 100)
        return [{"event": row.event, "at": row.at, "data": orjson.loads(row.data or b"")} for row in rows]

    async def pay(self, micro: int, at: int = NOW, **order: Any) -> str:
        return await self.ended({"t": 0, "c": micro, "p": 0, "g": 0, "m": {}}, at=at, **order)


@pytest.fixture
async def office(store: Store) -> Office:
    await store.call("HSET", keys.key("webhook_events", WS), "usage.threshold", 1)
    return Office(store)


def budget(
    amount: int, scope: Any = "workspace", name: str = "", period: Length = "month", **more: Any
) -> Budget:
    return Budget(scope, name, period, amount, **({"alerts": (0.5, 1.0), "hard_stop": False} | more))


async def test_what_was_spent_before_a_budget_was_set_counts(office: Office) -> None:
    await office.pay(300)
    await office.put(budget(10_000), budget(10_000, period="day"))
    await office.pay(200)
    assert await office.spent() == [500, 500]


async def test_a_new_period_begins_at_nothing(office: Office) -> None:
    await office.put(budget(1000), budget(1000, period="day"))
    await office.pay(700)
    assert await office.spent(NOW + DAY_MS) == [700, 0]
    assert await office.spent(NOW + 10 * DAY_MS) == [0, 0]
    assert await office.reached(NOW + 10 * DAY_MS) == [(None, None), (None, None)]


async def test_agents_and_keys_have_their_own(office: Office) -> None:
    await office.pay(100, agent="agent_1", key="key_1")
    await office.pay(10, agent="agent_2", key="key_1")
    await office.pay(1, key="key_2")
    for key in ("key_1", "key_2"):
        await office.store.call("ZADD", keys.key("workspace_keys", WS), 0, key)
    names = [
        ("workspace", ""),
        ("agent", "agent_1"),
        ("agent", "agent_2"),
        ("key", "key_1"),
        ("key", "key_2"),
    ]
    await office.put(*(budget(1000, scope, name) for scope, name in names))
    assert await office.spent() == [111, 100, 10, 110, 1]


async def test_embeddings_are_spent_too(office: Office) -> None:
    """A search costs less than the millionth of a USD that budgets are counted in."""
    await office.store.call("ZADD", keys.key("workspace_keys", WS), 0, "key_1")
    await office.put(budget(4, alerts=(0.5,)), budget(100, "key", "key_1", period="day"))
    account = EmbeddedStore(office.store, ManualClock(NOW))
    for model, key in (
        ("free", "key_1"),
        ("ada", "key_1"),
        ("ada", "key_1"),
        ("ada", "key_2"),
        ("ada", "key_1"),
    ):
        cost = 0.0 if model == "free" else 0.6e-6
        await account.add(WS, key, [Embedded(model, 6, cost, "col_1")])
    await office.pay(1)
    assert await office.spent() == [3, 2]
    assert [one["data"]["spent"] for one in await office.told()] == [0.000002]


async def test_each_threshold_is_told_of_once(office: Office) -> None:
    await office.put(budget(1000, period="day", alerts=(0.1, 0.5, 1.0)))
    await office.pay(50)
    assert await office.told() == []
    await office.pay(550, at=NOW + 1234)
    await office.pay(1, at=NOW + 2000)
    assert await office.reached() == [(NOW + 1234, NOW + 1234, None)]
    assert await office.told() == [
        {
            "event": "usage.threshold",
            "at": NOW + 1234,
            "data": {
                "scope": "workspace",
                "id": None,
                "period": "day",
                "period_start": "2025-11-25T00:00:00.000Z",
                "amount": 0.001,
                "spent": 0.0006,
                "threshold": threshold,
            },
        }
        for threshold in (0.1, 0.5)
    ]
    await office.pay(399)
    assert [one["data"]["threshold"] for one in await office.told()] == [0.1, 0.5, 1.0]


async def test_the_event_names_whose_budget_it_is(office: Office) -> None:
    await office.pay(1, agent="agent_1")
    await office.put(budget(100, "agent", "agent_1", alerts=(1.0,)))
    await office.pay(99, agent="agent_1")
    (event,) = await office.told()
    assert (event["data"]["scope"], event["data"]["id"]) == ("agent", "agent_1")
    assert (event["data"]["period"], event["data"]["period_start"]) == ("month", "2025-11-01T00:00:00.000Z")


async def test_the_next_period_is_told_of_anew(office: Office) -> None:
    await office.put(budget(100, period="day", alerts=(1.0,)))
    for day in range(2):
        await office.pay(150, at=NOW + day * DAY_MS)
    assert [one["data"]["period_start"][:10] for one in await office.told()] == ["2025-11-25", "2025-11-26"]


async def test_a_budget_that_is_reached_when_it_is_set_tells_so(office: Office) -> None:
    await office.pay(600)
    await office.put(budget(1000))
    await office.put(budget(1000))
    assert (await office.reached(), len(await office.told())) == ([(NOW, None)], 1)


async def test_a_raised_budget_tells_again(office: Office) -> None:
    await office.put(budget(100))
    await office.pay(100)
    await office.put(budget(1000))
    assert await office.reached() == [(None, None)]
    await office.pay(400, at=NOW + 5)
    assert await office.reached() == [(NOW + 5, None)]
    assert [one["data"]["amount"] for one in await office.told()] == [0.0001, 0.0001, 0.001]


async def test_one_that_is_raised_and_lowered_does_not(office: Office) -> None:
    await office.put(budget(100, alerts=(1.0,)))
    await office.pay(100)
    for amount in (1000, 100, 50, 1000, 90):
        await office.put(budget(amount, alerts=(1.0,)), now=NOW + amount)
        assert await office.reached() == [(NOW if amount <= 100 else None,)]
    assert len(await office.told()) == 1


async def test_without_an_endpoint_nobody_is_told(office: Office) -> None:
    await office.store.call("DEL", keys.key("webhook_events", WS))
    await office.put(budget(1, alerts=(1.0,)))
    await office.pay(1)
    assert await office.reached() == [(NOW,)]
    assert await office.told() == []


async def test_thresholds_are_reached_by_whole_millionths(office: Office) -> None:
    """0.1 * 3,000,000 is 300,000.00000000006 to a computer."""
    await office.put(budget(3_000_000, alerts=(0.1,)))
    await office.pay(300_000)
    assert len(await office.told()) == 1


async def test_alerts_are_forgotten_with_their_period(office: Office) -> None:
    await office.put(budget(10), budget(10, period="day"))
    await office.pay(10)
    days = [
        await office.store.call("TTL", keys.key("alerts", WS, period=period)) / 86_400
        for period in ("2025-11-25", "2025-11")
    ]
    assert days == pytest.approx([3, 40], abs=0.01)


async def test_the_mark_changes_with_the_budgets_only(office: Office) -> None:
    first = await office.put(budget(100))
    await office.pay(70)
    assert (await office.budgets.read(WS, NOW)).mark == first
    second = await office.put(budget(200), mark=first)
    assert second != first
    with pytest.raises(Conflict):
        await office.put(budget(300), mark=first)
    assert (await office.budgets.read(WS, NOW)).mark == second


async def test_the_set_is_replaced_whole_or_not_at_all(office: Office) -> None:
    await office.put(budget(100), budget(50, period="day"))
    with pytest.raises(UnknownIds) as refused:
        await office.put(budget(1), budget(2, "agent", "agent_x"), budget(3, "key", "key_x"))
    assert refused.value.places == [1, 2]
    assert [one.budget.amount for one in (await office.budgets.read(WS, NOW)).budgets] == [100, 50]
    assert (await office.budgets.replace(WS, NOW, "", [])).budgets == ()


class TestHardStop:
    async def refused(self, office: Office, **order: Any) -> RateLimitError:
        with pytest.raises(RateLimitError) as refused:
            await office.accept(**order)
        assert await office.slots() == 0
        return refused.value

    async def test_a_spent_budget_refuses_until_its_period_ends(self, office: Office) -> None:
        await office.put(budget(1_500, hard_stop=True))
        await office.pay(1_500)
        error = await self.refused(office)
        assert error.details == {"limit": "budget", "max": 0.0015, "scope": "workspace", "period": "month"}
        assert (error.can_retry, error.retry_after) == (True, 5.5 * 86_400)

    async def test_the_one_that_ends_last_is_named(self, office: Office) -> None:
        await office.put(budget(5, period="day", hard_stop=True), budget(5, hard_stop=True))
        await office.pay(5)
        assert (await self.refused(office)).details["period"] == "month"

    async def test_a_day_is_over_at_midnight(self, office: Office) -> None:
        await office.put(budget(5, period="day", hard_stop=True))
        await office.pay(9)
        assert (await self.refused(office)).retry_after == DAY_MS / 2000

    async def test_only_what_it_is_for_is_refused(self, office: Office) -> None:
        await office.pay(10, agent="agent_1")
        await office.put(budget(10, "agent", "agent_1", hard_stop=True))
        assert (await self.refused(office, agent="agent_1")).details["scope"] == "agent"
        await office.accept(agent="agent_2")
        await office.accept()

    async def test_without_a_hard_stop_nothing_is_refused_or_bounded(self, office: Office) -> None:
        await office.put(budget(5))
        await office.pay(9)
        await office.accept()
        assert (await office.claim()).cap is None

    async def test_the_least_that_is_left_goes_along(self, office: Office) -> None:
        await office.pay(400, agent="agent_1")
        await office.put(
            budget(10_000, hard_stop=True),
            budget(1_000, period="day", hard_stop=True),
            budget(900, "agent", "agent_1", hard_stop=True),
            budget(450),
        )
        await office.accept(agent="agent_1")
        assert (await office.claim()).cap == 500
        await office.accept()
        assert (await office.claim()).cap == 600

    async def test_it_stays_the_same_after_a_takeover(self, office: Office) -> None:
        await office.put(budget(10**15, hard_stop=True))
        await office.accept()
        await office.claim()
        await office.lose()
        assert (await office.claim()).cap == 10**15


class TestTokensOfADay:
    async def test_when_they_are_used_the_rest_of_the_day_is_refused(self, office: Office) -> None:
        await office.ended(SPENT, tokens_per_day=12)
        await office.accept(tokens_per_day=13)
        with pytest.raises(RateLimitError) as refused:
            await office.accept(tokens_per_day=12)
        assert refused.value.details == {"limit": "tokens", "max": 12}
        assert refused.value.retry_after == DAY_MS / 2000

    async def test_the_rest_goes_along(self, office: Office) -> None:
        await office.ended(SPENT)
        await office.accept()
        assert (await office.claim()).cap_tokens is None
        await office.accept(tokens_per_day=20)
        assert (await office.claim()).cap_tokens == 8

    async def test_another_day_has_its_own(self, office: Office) -> None:
        await office.ended(SPENT, at=NOW - DAY_MS)
        await office.accept(tokens_per_day=1)


@pytest.mark.parametrize(
    ("period", "now", "end"),
    [
        ("day", "2024-02-29T23:59:59.999", "2024-03-01T00:00:00"),
        ("day", "2024-12-31T00:00:00", "2025-01-01T00:00:00"),
        ("month", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        ("month", "2024-01-31T23:59:59.999", "2024-02-01T00:00:00"),
        ("month", "2024-12-31T12:00:00", "2025-01-01T00:00:00"),
    ],
)
def test_periods_end_where_the_next_begins(period: Length, now: str, end: str) -> None:
    at, until = (
        round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000) for text in (now, end)
    )
    assert begins_again(period, at) == until


class TestBounds:
    """Of one execution."""

    def test_the_lower_one_holds(self) -> None:
        bounds: Sequence[tuple[float | None, int | None, float | None]] = [
            (None, None, None),
            (2.0, None, 2.0),
            (None, 1_500_000, 1.5),
            (2.0, 1_500_000, 1.5),
            (1.0, 1_500_000, 1.0),
            (0.0, 1_500_000, 0.0),
        ]
        assert [Bounds(None, most, cap).limit for most, cap, _ in bounds] == [limit for _, _, limit in bounds]

    @pytest.mark.parametrize("worst", [0.6, None])
    def test_what_a_budget_left_is_kept(self, worst: float | None) -> None:
        bounds = Bounds(None, None, 500_000)
        with pytest.raises(RateLimitError, match="budget") as refused:
            bounds.hold_cost("a", worst)
        assert refused.value.details == {"limit": "budget", "max": 0.5}
        assert "max_cost" not in str(refused.value)

    @pytest.mark.parametrize("worst", [0.6, None])
    def test_the_callers_own_bound_is_named_where_it_is_lower(self, worst: float | None) -> None:
        with pytest.raises(RateLimitError, match=r"max_cost of 0\.5 USD"):
            Bounds(None, 0.5, 700_000).hold_cost("a", worst)

    def test_machines_count_in_whole_millionths(self) -> None:
        bounds = Bounds(None, 0.0)
        bounds.spend(0.0000002)
        bounds.hold_cost("a", 0.0)
        bounds.spend(0.0000004)
        with pytest.raises(RateLimitError):
            bounds.hold_cost("a", 0.0)
