"""A sealed value opens where it was sealed, whole, and nowhere else."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.sealing import Damaged, Envelope, Sealed, Wrapped, bind, decrypt, encrypt

pytestmark = pytest.mark.anyio


class Keys:
    """Two KEKs in memory; `name` is the current one."""

    def __init__(self) -> None:
        self.keks = {"a": bytes(32), "b": bytes(range(32))}
        self.name = "a"

    async def current(self) -> str:
        return self.name

    async def wrap(self, data_key: bytes, bound: bytes) -> Wrapped:
        return Wrapped(self.name, encrypt(self.keks[self.name], data_key, bound))

    async def unwrap(self, wrapped: Wrapped, bound: bytes) -> bytes:
        return decrypt(self.keks[wrapped.kek], wrapped.key, bound)


async def test_it_opens_only_where_it_was_sealed() -> None:
    envelope = Envelope(Keys())
    sealed = await envelope.seal(b"value", "ws_1", "cred_1", "1")
    assert await envelope.open(sealed, "ws_1", "cred_1", "1") == b"value"
    for elsewhere in [
        ("ws_2", "cred_1", "1"),
        ("ws_1", "cred_2", "1"),
        ("ws_1", "cred_1", "2"),
        ("ws_1cred_1", "1"),
    ]:
        with pytest.raises(Damaged):
            await envelope.open(sealed, *elsewhere)


async def test_no_two_are_alike() -> None:
    envelope = Envelope(Keys())
    assert await envelope.seal(b"value", "x") != await envelope.seal(b"value", "x")


async def test_another_kek_wraps_the_same_value() -> None:
    keys = Keys()
    envelope = Envelope(keys)
    sealed = await envelope.seal(b"value", "x")
    assert await envelope.rewrap(sealed, "x") is None
    keys.name = "b"
    moved = await envelope.rewrap(sealed, "x")
    assert moved is not None
    assert Sealed.decode(moved).wrapped.kek == "b"
    assert Sealed.decode(moved).body == Sealed.decode(sealed).body
    assert await envelope.open(moved, "x") == await envelope.open(sealed, "x") == b"value"


@pytest.mark.parametrize("stored", [b"", b"{}", b"null", b'{"kek":"a","key":"!","body":""}', b"\xff"])
async def test_what_is_no_sealed_value_is_damaged(stored: bytes) -> None:
    with pytest.raises(Damaged):
        await Envelope(Keys()).open(stored, "x")


@pytest.mark.parametrize("field", ["key", "body"])
@pytest.mark.parametrize("keep", [0, 11, 12, 20, -4])
async def test_a_cut_value_is_damaged(field: str, keep: int) -> None:
    envelope = Envelope(Keys())
    parts = orjson.loads(await envelope.seal(b"some value", "x"))
    parts[field] = parts[field][: keep - keep % 4]
    with pytest.raises(Damaged) as refused:
        await envelope.open(orjson.dumps(parts), "x")
    assert refused.value.details == {}


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_no_two_lists_bind_alike(first: list[str], second: list[str]) -> None:
    assert (bind(tuple(first)) == bind(tuple(second))) == (first == second)
