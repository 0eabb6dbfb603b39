"""Limits of requests: never more than the bucket allows, in any window, whatever replicas and clocks do."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.errors import Unavailable
from kernel.metering import admission
from kernel.metering.admission import Admission, Standing
from kernel.metering.limits import HOLD, SECOND, SMALLEST_SHARED, Bucket, Limit, settle
from kernel.storage import keys
from kernel.storage import meter as meter_store
from kernel.storage.meter import Ask, MeterStore, Settled
from kernel.storage.store import Store

FREE = Limit.hourly(1_000, 50)
WIDE = Limit.hourly(3_600_000, 200)
HOLDERS = 3
NOON = 1_800_000_000 * SECOND

limits = st.builds(
    Limit, st.integers(1_000, 10 * SECOND), st.one_of(st.integers(1, 80), st.integers(64, 2_000))
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "spend", "spend", "back", "crash", "set back"]),
        st.integers(0, HOLDERS - 1),
        st.integers(0, 300),
        st.integers(0, 400_000),
    ),
    max_size=60,
)


@dataclass
class World:
    """Some replicas that ask, spend, tell and die; `spends` are moments of true time, which only passes."""

    limit: Limit
    bucket: Bucket
    clock: int = NOON
    true: int = 0
    left: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)] * HOLDERS)
    untold: list[int] = field(default_factory=lambda: [0] * HOLDERS)
    lives: list[int] = field(default_factory=lambda: [0] * HOLDERS)
    spends: list[int] = field(default_factory=list)

    def pass_time(self, us: int) -> None:
        self.clock += us
        self.true += us

    def step(self, what: str, holder: int, amount: int) -> None:
        match what:
            case "ask":
                self.settle(holder, self.spare(holder), waiting=amount % 7, spare=amount)
            case "back":
                self.settle(holder, kept=0, waiting=0, spare=0)
            case "spend":
                self.spend(holder, amount)
            case "crash":  # who comes after it has another name
                self.left[holder], self.untold[holder] = (0, 0), 0
                self.lives[holder] += 1
            case "set back":
                self.clock -= amount * SECOND

    def spare(self, holder: int) -> int:
        """Of the holder's lease, by its own clock."""
        left, until = self.left[holder]
        return left if self.true <= until else 0

    def settle(self, holder: int, kept: int, waiting: int, spare: int) -> None:
        self.bucket, grant = settle(
            *(self.limit, self.bucket, f"{holder}.{self.lives[holder]}", self.clock, self.untold[holder]),
            *(kept, waiting, spare),
        )
        assert 0 <= grant.granted <= waiting
        assert 0 <= grant.spare <= spare
        self.left[holder], self.untold[holder] = (grant.kept + grant.spare, self.true + HOLD), 0
        self.spends += [self.true] * grant.granted

    def spend(self, holder: int, amount: int) -> None:
        spent = min(self.spare(holder), amount)
        self.left[holder] = (self.left[holder][0] - spent, self.left[holder][1])
        self.untold[holder] += spent
        self.spends += [self.true] * spent


def over(spends: Sequence[int], limit: Limit) -> int:
    """How many more than the limit allows were spent in the worst window."""
    worst, tat = 0, 0
    for moment in spends:
        tat = max(tat, moment) + limit.emission
        worst = max(worst, tat - moment - limit.capacity)
    return -(-worst // limit.emission)


@given(limits, steps)
@settings(max_examples=400, deadline=None)
def test_no_window_ever_holds_more_than_the_limit(
    limit: Limit, plan: list[tuple[str, int, int, int]]
) -> None:
    world = World(limit, Bucket(0, NOON, limit.emission))
    for what, holder, amount, passed in plan:
        world.step(what, holder, amount)
        world.pass_time(passed)
    assert over(world.spends, limit) <= 0


@given(limits, steps)
@settings(max_examples=200, deadline=None)
def test_only_what_was_spent_is_gone(limit: Limit, plan: list[tuple[str, int, int, int]]) -> None:
    world = World(limit, Bucket(0, NOON, limit.emission))
    for what, holder, amount, _ in plan:
        if what in ("ask", "spend"):
            world.step(what, holder, amount)
    for holder in range(HOLDERS):
        world.step("back", holder, 0)
    assert world.bucket.debt == len(world.spends) * limit.emission
    assert world.bucket.reserved == 0


def full(limit: Limit) -> Bucket:
    return Bucket(0, NOON, limit.emission)


def test_a_full_bucket_has_the_burst_and_then_one_at_a_time() -> None:
    bucket, grant = settle(FREE, full(FREE), "a", NOON, 0, 0, 200, 0)
    assert (grant.granted, grant.remaining, grant.wait) == (50, 0, 3_600_000)
    bucket, early = settle(FREE, bucket, "b", NOON + 3_599_999, 0, 0, 5, 0)
    assert (early.granted, early.wait) == (0, 1)
    _, due = settle(FREE, bucket, "b", NOON + 3_600_000, 0, 0, 5, 0)
    assert due.granted == 1


def test_a_small_bucket_spares_nothing() -> None:
    bucket, grant = settle(FREE, full(FREE), "a", NOON, 0, 0, 1, 100)
    assert (grant.granted, grant.spare, bucket.reserved) == (1, 0, 0)


def test_the_last_quarter_is_for_those_who_wait() -> None:
    bucket, grant = settle(WIDE, full(WIDE), "a", NOON, 0, 0, 1, 1_000)
    assert grant.spare == 149
    _, other = settle(WIDE, bucket, "b", NOON, 0, 0, 100, 100)
    assert (other.granted, other.spare) == (50, 0)


def test_a_silent_holder_is_taken_to_have_spent_all() -> None:
    bucket, _ = settle(WIDE, full(WIDE), "dead", NOON, 0, 0, 0, 150)
    before, _ = settle(WIDE, bucket, "b", NOON + HOLD, 0, 0, 0, 0)
    after, _ = settle(WIDE, bucket, "b", NOON + HOLD + 1, 0, 0, 0, 0)
    assert (before.debt, before.reserved) == (0, 150)
    assert (after.debt, after.reserved) == (150 * WIDE.emission, 0)


def test_another_limit_finds_as_many_used() -> None:
    used_up, _ = settle(FREE, full(FREE), "a", NOON, 0, 0, 50, 0)
    pro = Limit.hourly(10_000, 500)
    _, grant = settle(pro, used_up, "a", NOON, 0, 0, 0, 0)
    assert grant.remaining == 450


def test_a_clock_that_was_set_back_refills_nothing_and_locks_nobody_out() -> None:
    used_up, _ = settle(FREE, full(FREE), "a", NOON, 0, 0, 50, 0)
    hour_ago = NOON - 3600 * SECOND
    bucket, grant = settle(FREE, used_up, "a", hour_ago, 0, 0, 1, 0)
    assert (grant.granted, grant.wait) == (0, 3_600_000)
    _, later = settle(FREE, bucket, "a", hour_ago + 3_600_000, 0, 0, 1, 0)
    assert later.granted == 1


asks = st.tuples(st.integers(0, 2), *[st.integers(0, 40)] * 4, st.integers(-500_000, 4_000_000))


class TestInRedis:
    @given(limit=limits, plan=st.lists(asks, max_size=12))
    @settings(max_examples=30, deadline=None)
    def test_the_script_does_the_same_arithmetic(
        self, valkey_url: str, limit: Limit, plan: list[tuple[int, int, int, int, int, int]]
    ) -> None:
        asyncio.run(_compare(valkey_url, limit, plan))

    @pytest.mark.anyio
    async def test_an_ask_sent_twice_is_settled_once(self, store: Store) -> None:
        meter = MeterStore(store)
        ask = _ask(FREE, 1, waiting=30)
        first, again = await meter.settle_at(ask), await meter.settle_at(ask)
        assert first == again
        assert first.granted == 30
        assert (await meter.settle_at(_ask(FREE, 2, waiting=30))).granted == 20

    @pytest.mark.anyio
    @pytest.mark.parametrize("limit", [WIDE, None])
    async def test_what_was_spent_is_counted_and_nothing_else(
        self, store: Store, limit: Limit | None
    ) -> None:
        meter = MeterStore(store)
        settled = await meter.settle_at(_ask(limit, 1, waiting=2, spare=20))
        assert settled[:2] == (2, 20)
        assert await _counted(store) == {b"r": b"2", b"r|k|key_1": b"2"}
        await meter.settle_at(_ask(limit, 2, spent=15))
        assert await _counted(store) == {b"r": b"17", b"r|k|key_1": b"17"}

    @pytest.mark.anyio
    async def test_a_late_ask_with_an_earlier_number_changes_nothing(self, store: Store) -> None:
        meter = MeterStore(store)
        for number in (1, 2, 1):
            await meter.settle_at(_ask(WIDE, number, waiting=3))
        assert (await _counted(store))[b"r"] == b"6"

    @pytest.mark.anyio
    async def test_what_another_limit_refused_is_not_counted(self, store: Store) -> None:
        await MeterStore(store).settle_at(_ask(WIDE, 1, waiting=3)._replace(free=2))
        assert (await _counted(store))[b"r"] == b"1"

    @pytest.mark.anyio
    async def test_each_of_many_gets_its_own_answer(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(meter_store, "MOST_A_STEP", 3)
        asks = [_ask(WIDE, 1, waiting=n)._replace(workspace_id=f"ws_{n}") for n in range(1, 101)]
        settled = await MeterStore(store).settle(0, asks)
        assert [one.granted for one in settled] == [*range(1, 101)]
        assert [one.remaining for one in settled] == [WIDE.burst - n for n in range(1, 101)]

    @pytest.mark.anyio
    async def test_holders_of_one_bucket_in_one_step_share_it(self, store: Store) -> None:
        asks = [_ask(FREE, n, waiting=20)._replace(holder=f"holder {n}") for n in range(1, 5)]
        meter = MeterStore(store)
        first, again = await meter.settle(0, asks), await meter.settle(0, asks)
        assert first == again
        assert [one.granted for one in first] == [20, 20, 10, 0]

    @pytest.mark.anyio
    async def test_one_that_is_settled_already_holds_up_no_other(self, store: Store) -> None:
        meter, done = MeterStore(store), _ask(WIDE, 1, waiting=3)
        await meter.settle(0, [done])
        fresh = _ask(WIDE, 2, waiting=4)._replace(holder="other")
        assert [one.granted for one in await meter.settle(0, [done, fresh])] == [3, 4]
        assert (await _counted(store))[b"r"] == b"7"

    @pytest.mark.anyio
    async def test_a_bucket_of_a_year_is_counted_to_the_microsecond(self, store: Store) -> None:
        year = Limit.hourly(1, 8_760)
        settled = await MeterStore(store).settle_at(_ask(year, 1, waiting=8_760))
        assert (settled.granted, settled.remaining) == (8_760, 0)
        assert (settled.wait, settled.full) == (year.emission, year.capacity)

    @pytest.mark.anyio
    async def test_nothing_stays_reserved_for_holders_that_are_long_gone(self, store: Store) -> None:
        meter = MeterStore(store)
        now = NOON
        await meter.settle_at(_ask(WIDE, 1, spare=100), now)
        await store.call("DEL", keys.key("holders", "ws_1"))
        settled = await meter.settle_at(_ask(WIDE, 1, waiting=1)._replace(holder="other"), now)
        assert (settled.granted, settled.remaining) == (1, 99)
        later = await meter.settle_at(_ask(WIDE, 2)._replace(holder="other"), now + 40 * SECOND)
        assert later.remaining == 200


def _ask(limit: Limit | None, number: int, **wanted: int) -> Ask:
    numbers = (limit.emission, limit.burst) if limit else (0, 0)
    rest = {"spent": 0, "kept": 0, "waiting": 0, "spare": 0} | wanted
    return Ask("ws_1", "holder", "key_1", number, *numbers, HOLD, _shared(limit), **rest)


def _shared(limit: Limit | None) -> int:
    return int(limit is None or limit.burst >= SMALLEST_SHARED)


async def _counted(store: Store) -> dict[bytes, bytes]:
    names = await store.call("KEYS", f"{keys.prefix_of('ws_1')}:ws_1:usage:*")
    flat = await store.call("HGETALL", names[0])
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def _compare(url: str, limit: Limit, plan: list[tuple[int, int, int, int, int, int]]) -> None:
    store = Store(url, "test")
    try:
        await store.call("FLUSHALL")
        bucket, now, meter = full(limit), NOON, MeterStore(store)
        for number, (holder, spent, kept, waiting, spare, passed) in enumerate(plan, 1):
            now += passed
            wanted = (spent, kept, waiting, spare)
            bucket, grant = settle(limit, bucket, str(holder), now, *wanted)
            ask = Ask(
                "ws_1",
                str(holder),
                "key_1",
                number,
                limit.emission,
                limit.burst,
                HOLD,
                _shared(limit),
                *wanted,
            )
            settled = await meter.settle_at(ask, now)
            assert settled == grant
    finally:
        await store.close()


@dataclass
class Desk:
    """A meter whose answers the test lets through, over an endless bucket unless it says otherwise."""

    lanes: int = 1
    asks: list[Ask] = field(default_factory=list)
    fails: int = 0
    answer: Settled | None = None
    calls: int = 0
    busy: int = 0

    async def settle(self, lane: int, asks: Sequence[Ask]) -> list[Settled]:
        assert self.busy == 0, "one call in flight"
        self.busy, self.calls = 1, self.calls + 1
        await asyncio.sleep(0)
        self.busy = 0
        if self.fails:
            self.fails -= 1
            raise Unavailable("away")
        self.asks += asks
        return [self.answer or Settled(ask.waiting, ask.spare, 1_000, 0, 0, ask.kept) for ask in asks]

    def told(self) -> int:
        """Requests that the meter knows to be spent."""
        return sum(ask.waiting + ask.spent for ask in self.asks)


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


async def settled_all(door: Admission) -> None:
    """Tells what was spent, and waits for the answer."""
    door._tell()
    while any(task and not task.done() for task in door._asking):  # noqa: ASYNC110
        await asyncio.sleep(0)


@pytest.mark.anyio
class TestAdmission:
    async def test_those_who_come_together_leave_in_one_call(self) -> None:
        desk = Desk()
        door = Admission(desk)
        standings = await asyncio.gather(
            *(door.admit(f"ws_{n}", f"key_{n}", WIDE) for n in range(20) for _ in range(3))
        )
        assert all(standing.admitted for standing in standings)
        assert desk.calls <= 2

    async def test_a_caller_who_comes_rarely_asks_for_one_at_a_time(self) -> None:
        desk, now = Desk(), Hands()
        door = Admission(desk, now)
        for _ in range(5):
            assert (await door.admit("ws_1", "key_1", WIDE)).admitted
            now.s += 40
        assert [(ask.waiting, ask.kept + ask.spare) for ask in desk.asks] == [(1, 1), *[(1, 0)] * 4]

    async def test_a_slow_caller_has_one_to_spare(self) -> None:
        desk, now = Desk(), Hands()
        door = Admission(desk, now)
        for _ in range(4):
            assert (await door.admit("ws_1", "key_1", WIDE)).admitted
            await settled_all(door)
            now.s += 1
        asked = [(ask.waiting, ask.spare, ask.spent) for ask in desk.asks]
        assert asked == [(1, 1, 0), (0, 1, 1), (0, 1, 1), (0, 1, 1)]

    async def test_a_hot_caller_spends_what_was_granted_ahead(self) -> None:
        desk, now = Desk(), Hands()
        door = Admission(desk, now)
        for _ in range(1_000):
            assert (await door.admit("ws_1", "key_1", WIDE)).admitted
            now.s += 0.001
        await door.close()
        assert desk.calls < 60
        assert desk.told() == 1_000

    async def test_what_is_not_spent_in_time_is_not_spent(self) -> None:
        desk, now = Desk(), Hands()
        door = Admission(desk, now)
        for _ in range(2):
            await asyncio.gather(*(door.admit("ws_1", "key_1", WIDE) for _ in range(20)))
        now.s += 40
        await door.admit("ws_1", "key_1", WIDE)
        assert sum(ask.spare for ask in desk.asks[:-1]) > 0
        assert (desk.asks[-1].waiting, desk.asks[-1].kept) == (1, 0)

    async def test_a_meter_that_dies_is_asked_again_the_same(self) -> None:
        desk = Desk(fails=2)
        assert (await Admission(desk).admit("ws_1", "key_1", FREE)).admitted
        assert [ask.number for ask in desk.asks] == [1]
        assert desk.calls == 3

    async def test_a_meter_that_stays_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(admission, "PATIENCE_S", 0.3)
        desk = Desk(fails=1_000_000)
        door = Admission(desk)
        with pytest.raises(Unavailable) as caught:
            await door.admit("ws_1", "key_1", FREE)
        assert caught.value.retry_after
        desk.fails = 0
        assert (await door.admit("ws_1", "key_1", FREE)).admitted
        assert [ask.number for ask in desk.asks] == [1, 2] or desk.asks[0].waiting >= 1

    async def test_those_who_gave_up_are_not_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(admission, "PATIENCE_S", 0.05)
        desk = Desk(fails=1_000_000)
        door = Admission(desk)
        gone = await asyncio.gather(
            *(door.admit("ws_1", "key_1", FREE) for _ in range(40)), return_exceptions=True
        )
        assert {type(one) for one in gone} == {Unavailable}
        assert len(door._accounts["key_1"].waiting) == 0
        desk.fails = 0
        await door.close()
        assert [ask.waiting for ask in desk.asks] == [0]

    async def test_spare_requests_end_counted_from_the_first_try(self) -> None:
        desk, now = Desk(fails=1), Hands()
        door = Admission(desk, now)
        asking = asyncio.create_task(door.admit("ws_1", "key_1", WIDE))
        while not desk.calls:  # noqa: ASYNC110
            await asyncio.sleep(0)
        now.s += admission.KEEP_S + 1
        await asking
        await door.admit("ws_1", "key_1", WIDE)
        assert [ask.waiting for ask in desk.asks] == [1, 1]

    async def test_what_is_not_spent_goes_back_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(admission, "KEEP_S", 0.01)
        desk = Desk()
        await Admission(desk).admit("ws_1", "key_1", WIDE)
        async with asyncio.timeout(5):
            while len(desk.asks) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert [(ask.spare, ask.kept) for ask in desk.asks] == [(1, 0), (0, 0)]

    async def test_what_is_held_anew_does_not_go_back_yet(self) -> None:
        desk, now = Desk(), Hands()
        door = Admission(desk, now)
        await door.admit("ws_1", "key_1", WIDE)
        account = door._accounts["key_1"]
        now.s += 10
        await door.admit("ws_1", "key_1", WIDE)
        await settled_all(door)
        now.s += 11
        door._look(account)
        assert (account.holds(now.s), desk.calls) == (1, 2)
        now.s += 10
        door._look(account)
        await settled_all(door)
        assert (desk.asks[-1].kept, desk.asks[-1].spare, desk.calls) == (0, 0, 3)

    async def test_what_was_held_under_another_limit_goes_back(self) -> None:
        desk, now = Desk(), Hands()
        door = Admission(desk, now)
        for _ in range(2):
            await asyncio.gather(*(door.admit("ws_1", "key_1", WIDE) for _ in range(20)))
        await door.admit("ws_1", "key_1", Limit.hourly(1_000, 100))
        assert (desk.asks[-1].kept, desk.asks[-1].waiting) == (0, 1)

    async def test_a_refusal_is_told_without_asking_again(self) -> None:
        now = Hands()
        desk = Desk(answer=Settled(0, 0, 0, 3_600_000, 180_000_000, 0))
        door = Admission(desk, now)
        first = await door.admit("ws_1", "key_1", FREE)
        now.s += 0.5
        second = await door.admit("ws_1", "key_1", FREE)
        assert (first.admitted, second.admitted, desk.calls) == (False, False, 1)
        assert second == Standing(False, FREE, 0, pytest.approx(3.1), pytest.approx(179.5))
        now.s += 0.6
        await door.admit("ws_1", "key_1", FREE)
        assert desk.calls == 2

    async def test_another_limit_counts_at_once(self) -> None:
        desk = Desk(answer=Settled(0, 0, 0, 3_600_000, 180_000_000, 0))
        door = Admission(desk)
        await door.admit("ws_1", "key_1", FREE)
        desk.answer = None
        assert (await door.admit("ws_1", "key_1", WIDE)).admitted
        assert desk.asks[-1].burst == WIDE.burst

    async def test_a_caller_who_leaves_holds_nobody_up(self) -> None:
        desk = Desk()
        door = Admission(desk)
        gone = asyncio.create_task(door.admit("ws_1", "key_1", FREE))
        stays = asyncio.create_task(door.admit("ws_1", "key_1", FREE))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).admitted

    async def test_at_the_end_all_is_told_and_the_rest_goes_back(self) -> None:
        desk = Desk()
        door = Admission(desk)
        for _ in range(3):
            await asyncio.gather(*(door.admit("ws_1", "key_1", WIDE) for _ in range(20)))
        await door.close()
        assert desk.told() == 60
        assert (desk.asks[-1].kept, desk.asks[-1].spare) == (0, 0)
