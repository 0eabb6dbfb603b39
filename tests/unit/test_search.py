from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel.agents.catalog import Agents
from kernel.agents.flow import Flow
from kernel.agents.judge import Judgement
from kernel.agents.record import AgentCreate, AgentPatch
from kernel.agents.search import LONGEST_PREFIX, AgentFilter, places_of, sought, words
from kernel.clock import ManualClock
from kernel.errors import ValidationError
from kernel.ids import new_id
from kernel.paging import PageQuery
from kernel.storage.store import Store, opened

pytestmark = pytest.mark.anyio

FLOW = {"nodes": [{"id": "a", "type": "llm"}]}


async def any_flow(ws: str, flow: Flow, schema: Mapping[str, Any] | None) -> Judgement:
    return Judgement([])


async def make(agents: Agents, ws: str, name: str, description: str = "", tags: Sequence[str] = ()) -> str:
    body = {"name": name, "description": description, "tags": list(tags), "flow": FLOW}
    return (await agents.create(ws, "user_1", AgentCreate.model_validate(body))).id


async def found(agents: Agents, ws: str, **wanted: Any) -> list[str]:
    page = await agents.list(ws, AgentFilter.of(**wanted), PageQuery(1, 100))
    assert page.total == len(page.items)
    return [item["name"] for item in page.items]


@pytest.fixture
def agents(store: Store, clock: ManualClock) -> Agents:
    return Agents(store, clock, any_flow)


class TestMatching:
    @pytest.mark.parametrize(
        ("text", "search", "matches"),
        [
            ("Code Review Assistant", "code", True),
            ("Code Review Assistant", "REV", True),
            ("Code Review Assistant", "assist co", True),
            ("Code Review Assistant", "ode", False),
            ("Code Review Assistant", "code tests", False),
            ("Code Review Assistant", "  ", True),
            ("code-review", "review", True),
            ("code-review", "code-r", True),
            ("code-review", "code review", True),
            ("reviews code, fast", "code", True),
            ("C++ helper", "c++", True),
            ("C helper", "c++", False),
            ("any text", "*", False),
            ("any text", "a*", False),
            ("any text", "[a-z]", False),
            ("any text", "(a+)+$", False),
            ("a *[ b", "*[", True),
            ("{s01}:x", "{s01}", True),
            ("100 % sure", "%", True),
            ("Straße", "STRASSE", True),
            ("Caf\u00e9", "cafe\u0301", True),
            ("ﬁle", "fi", True),
            ("Ｆｕｌｌ", "full", True),
            ("İstanbul", "i\u0307st", True),
            ("мир и труд", "ТРУД", True),
            ("x" * 100, "x" * 60, True),
        ],
    )
    async def test_words_and_prefixes_in_any_case(
        self, agents: Agents, text: str, search: str, matches: bool
    ) -> None:
        ws = new_id("ws")
        await make(agents, ws, "zz", text)
        assert (await found(agents, ws, search=search) == ["zz"]) is matches

    async def test_name_and_description_both_count(self, agents: Agents) -> None:
        ws = new_id("ws")
        await make(agents, ws, "alpha", "beta")
        assert await found(agents, ws, search="alpha beta") == ["alpha"]

    async def test_an_edit_moves_it(self, agents: Agents) -> None:
        ws = new_id("ws")
        agent = await make(agents, ws, "alpha", "same", ["one"])
        change = AgentPatch.model_validate({"name": "beta", "tags": ["two"]})
        await agents.patch(ws, agent, change, "user_1")
        assert await found(agents, ws, search="alpha") == await found(agents, ws, tag="one") == []
        assert await found(agents, ws, search="beta same", tag="two") == ["beta"]

    def test_one_word_that_implies_another_stands_for_it(self) -> None:
        assert sought("rev re review code") == ("code", "review")

    def test_a_long_text_has_a_bounded_number_of_sets(self) -> None:
        text = " ".join(f"{n:x}-{n * 7919:x}" for n in range(600))[:4096]
        assert len(places_of("n", text, [])) < 10_000
        assert max(map(len, words("y" * 4096))) == LONGEST_PREFIX


class TestFilter:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("search", "x" * 257), ("search", "a\x00"), ("search", "a\u202e"), ("search", "\ud800"),
            ("status", "gone"), ("status", ""), ("tag", ""), ("tag", "x" * 65), ("tag", "\n"),
        ],
    )  # fmt: skip
    def test_bad_values_name_their_parameter(self, field: str, value: str) -> None:
        with pytest.raises(ValidationError) as caught:
            AgentFilter.of(**{field: value})
        assert caught.value.details["field"] == field

    def test_the_longest_search_is_taken(self) -> None:
        assert AgentFilter.of(search="x " * 128).prefixes == ("x",)


class TestPages:
    async def test_newest_first_by_page_and_by_cursor(self, agents: Agents, clock: ManualClock) -> None:
        ws = new_id("ws")
        ids = sorted([await make(agents, ws, f"agent {n}") for n in range(25)], reverse=True)
        for wanted in (
            AgentFilter(),
            AgentFilter.of(search="agent"),
            AgentFilter.of(search="agent", status="active"),
        ):
            by_page = [await agents.list(ws, wanted, PageQuery(n, 10)) for n in (1, 2, 3, 4)]
            assert [[i["id"] for i in page.items] for page in by_page] == [ids[:10], ids[10:20], ids[20:], []]
            assert [(page.total, page.more) for page in by_page] == [
                (25, True),
                (25, True),
                (25, False),
                (25, False),
            ]
            by_cursor = await agents.list(ws, wanted, PageQuery(1, 10, by_page[0].last_id))
            assert ([i["id"] for i in by_cursor.items], by_cursor.more) == (ids[10:20], True)

    async def test_a_cursor_outlives_its_agent(self, agents: Agents) -> None:
        ws = new_id("ws")
        ids = sorted([await make(agents, ws, "agent") for _ in range(4)], reverse=True)
        await agents.delete(ws, ids[1])
        page = await agents.list(ws, AgentFilter(), PageQuery(1, 10, ids[1]))
        assert ([i["id"] for i in page.items], page.total) == (ids[2:], 3)

    async def test_a_limited_key_sees_its_own(self, agents: Agents) -> None:
        ws = new_id("ws")
        ids = sorted([await make(agents, ws, f"agent {n}") for n in range(5)], reverse=True)
        for only in ([], ids[1:2], ids[1:4], [*ids[1:3], new_id("agent"), "agent_x"]):
            wanted = AgentFilter.of(search="agent", status="active", only=only)
            page = await agents.list(ws, wanted, PageQuery(1, 2))
            mine = [name for name in ids if name in only]
            assert ([i["id"] for i in page.items], page.total) == (mine[:2], len(mine))
            after = await agents.list(ws, wanted, PageQuery(1, 2, ids[1]))
            assert [i["id"] for i in after.items] == [name for name in mine if name < ids[1]]

    async def test_many_that_match_are_walked_few_intersected(self, agents: Agents) -> None:
        """Beyond 500 matches of several conditions the page is found by another way."""
        ws = new_id("ws")
        ids = [await make(agents, ws, "even" if n % 2 else "odd", "all", ["t"]) for n in range(1100)]
        evens = sorted(ids[1::2], reverse=True)
        for offset, number in ((0, 1), (400, 5), (500, 6)):
            page = await agents.list(ws, AgentFilter.of(search="all even", tag="t"), PageQuery(number, 100))
            assert [i["id"] for i in page.items] == evens[offset : offset + 100]
            assert (page.total, page.more) == (550, offset < 450)
        page = await agents.list(ws, AgentFilter.of(search="all even"), PageQuery(1, 50, evens[299]))
        assert [i["id"] for i in page.items] == evens[300:350]

    async def test_totals_follow_every_change(self, agents: Agents) -> None:
        ws = new_id("ws")
        ids = [await make(agents, ws, "agent", tags=["t"]) for _ in range(6)]
        off = AgentPatch.model_validate({"status": "inactive"})

        async def totals() -> list[int]:
            filters = [AgentFilter.of(search="agent", status=s) for s in ("active", "inactive", "error")]
            filters += [
                AgentFilter.of(search="agent", tag="t"),
                AgentFilter.of(tag="t", status="active", search="a"),
            ]
            return [(await agents.list(ws, wanted, PageQuery())).total for wanted in filters]

        assert await totals() == await totals() == [6, 0, 0, 6, 6]
        await agents.patch(ws, ids[0], off, "user_1")
        assert await totals() == [5, 1, 0, 6, 5]
        await agents.delete(ws, ids[1])
        assert await totals() == [4, 1, 0, 5, 4]
        await make(agents, ws, "agent")
        assert await totals() == [5, 1, 0, 5, 4]


word = st.sampled_from(["code", "Code", "coder", "review", "re-view", "Rev", "c++", "été", "x"])
text = st.lists(word, max_size=3).map(" ".join)
state = st.fixed_dictionaries(
    {
        "name": text.filter(bool),
        "description": text,
        "tags": st.lists(st.sampled_from(["t", "u"]), unique=True),
        "status": st.sampled_from(["active", "inactive"]),
    }
)
query = st.fixed_dictionaries(
    {
        "search": st.one_of(
            st.none(),
            st.lists(st.sampled_from(["c", "co", "CODE", "rev", "view", "re-", "é"]), max_size=2).map(
                " ".join
            ),
        ),
        "tag": st.sampled_from([None, "t", "u"]),
        "status": st.sampled_from([None, "active", "inactive", "error"]),
    }
)


def naive(agent: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """The rule in the words of the API."""
    text = f"{agent['name']} {agent['description']}".casefold()
    begins = text.split() + text.replace("-", " ").replace("+", " ").split()
    asked = (wanted["search"] or "").casefold().split()
    return (
        all(any(begin.startswith(one) for begin in begins) for one in asked)
        and wanted["tag"] in (None, *agent["tags"])
        and wanted["status"] in (None, agent["status"])
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    states=st.lists(st.tuples(state, st.none() | state), max_size=6),
    queries=st.lists(query, min_size=1, max_size=5),
)
async def test_search_agrees_with_a_naive_reading(
    valkey_url: str, states: list[Any], queries: list[Any]
) -> None:
    """Agents made, then some changed and some deleted, must be found as a plain loop would find them."""
    async with opened(valkey_url) as store:
        agents, ws = Agents(store, ManualClock(), any_flow), new_id("ws")
        model: dict[str, dict[str, Any]] = {}
        for first, second in states:
            agent = await make(agents, ws, first["name"], first["description"], first["tags"])
            await agents.patch(ws, agent, AgentPatch.model_validate(second or first), "user_1")
            model[agent] = second or first
            if len(model) % 3 == 0:
                await agents.delete(ws, agent)
                del model[agent]
        for wanted in queries:
            page = await agents.list(ws, AgentFilter.of(**wanted), PageQuery())
            expected = sorted((name for name, agent in model.items() if naive(agent, wanted)), reverse=True)
            assert [item["id"] for item in page.items] == expected
            assert page.total == len(expected)
