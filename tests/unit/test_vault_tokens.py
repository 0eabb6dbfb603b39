"""Vault tokens: what they open, for how long and how often, and who is locked out for guessing."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import pytest

from kernel.access.access import Access
from kernel.access.act import Act
from kernel.access.audit import Origin
from kernel.access.principal import Principal
from kernel.clock import ManualClock
from kernel.errors import (
    AuthenticationError,
    AuthorizationError,
    CodexError,
    NotFound,
    RateLimitError,
    ValidationError,
)
from kernel.ids import new_id
from kernel.storage import keys
from kernel.storage.store import Store
from kernel.storage.vault import LOCKED_MS, MAX_WRONG
from kernel.vault.record import CredentialPatch, Rotation, TokenCreate
from kernel.vault.tokens import new_token
from tests.access import order
from tests.vault import SECRET, Safe

pytestmark = pytest.mark.anyio

WRONG = f"{new_token()[0]}"


@pytest.fixture
def safe(store: Store, clock: ManualClock, access: Access, owner: Principal, tmp_path: Path) -> Safe:
    return Safe(store, clock, access, owner, tmp_path)


async def refused(ask: Awaitable[Any]) -> CodexError:
    with pytest.raises(CodexError) as caught:
        await ask
    return caught.value


class TestWhatTheyOpen:
    async def test_one_for_all_and_one_for_some(self, safe: Safe) -> None:
        first, second = await safe.kept("a"), await safe.kept("b")
        assert await safe.read(second, await safe.token()) == SECRET
        some = await safe.token(credential_ids=[first])
        assert await safe.read(first, some) == SECRET
        error = await refused(safe.read(second, some))
        assert (type(error), error.details) == (AuthorizationError, {"reason": "credential"})

    async def test_what_is_not_there(self, safe: Safe) -> None:
        await safe.kept()
        token = await safe.token(max_uses=1)
        for name in (new_id("cred"), "cred_x", "*", "x" * 500, ""):
            assert isinstance(await refused(safe.read(name, token)), NotFound)
        targets = {entry["target"] for entry in await safe.entries(action="credential.read")}
        assert "x" * 64 in targets
        assert await safe.tries() == [("refused", "missing")] * 5

    async def test_it_ends(self, safe: Safe, clock: ManualClock) -> None:
        made = await safe.kept()
        token = await safe.token(ttl_s=60)
        clock.advance(59_999)
        assert await safe.read(made, token) == SECRET
        clock.advance(1)
        assert (await refused(safe.read(made, token))).details == {"reason": "expired"}
        clock.advance(3_600_000)
        assert (await refused(safe.read(made, token))).status == 403

    async def test_it_is_forgotten(self, safe: Safe, store: Store) -> None:
        token = await safe.token(ttl_s=60)
        name = keys.key("vault_token", safe.ws, id=token.split("_")[1])
        assert 3_650_000 < await store.call("PTTL", name) <= 3_660_000
        assert token.split("_")[2].encode() not in b"".join(await store.call("HVALS", name))

    async def test_twenty_readers_of_five_uses(self, safe: Safe) -> None:
        made = await safe.kept()
        token = await safe.token(max_uses=5)
        done = await asyncio.gather(*(safe.read(made, token) for _ in range(20)), return_exceptions=True)
        assert done.count(SECRET) == 5
        left = [error for error in done if isinstance(error, AuthorizationError)]
        assert len(left) == 15
        assert {error.details["reason"] for error in left} == {"used_up"}
        assert sorted(await safe.tries()) == [("ok", None)] * 5 + [("refused", "used_up")] * 15

    async def test_bound_to_a_key(self, safe: Safe, access: Access, owner: Principal) -> None:
        made = await safe.kept()
        other = (await access.keys.create(owner, order("vault:read"))).key.id
        token = await safe.token(key_id=other)
        assert (await refused(safe.read(made, token))).details == {"reason": "key"}
        assert await safe.read(made, token, key=other) == SECRET
        unbound = await safe.token()
        assert await safe.read(made, unbound, key=other) == SECRET

    async def test_not_in_another_workspace(self, safe: Safe) -> None:
        made, token = await safe.kept(), await safe.token()
        who = replace(safe.act.who, workspace_id=new_id("ws"))
        error = await refused(safe.vault.reveal(Act(who), made, [token]))
        assert (error.status, error.details) == (403, {})

    async def test_rotation_and_edits_do_not_end_it(self, safe: Safe) -> None:
        made = await safe.kept()
        token = await safe.token(credential_ids=[made])
        await safe.vault.rotate(safe.act, made, Rotation(value="next"))
        await safe.vault.patch(safe.act, made, CredentialPatch(name="Other"), None)
        assert await safe.read(made, token) == "next"


class TestMinting:
    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"all": True}, "reason"),
            ({"all": True, "reason": " "}, "reason"),
            ({"all": True, "reason": "x", "ttl_s": 3601}, "ttl_s"),
            ({"all": True, "reason": "x", "ttl_s": 0}, "ttl_s"),
            ({"all": True, "reason": "x", "max_uses": 0}, "max_uses"),
            ({"all": True, "reason": "x", "max_uses": True}, "max_uses"),
            ({"all": True, "reason": "x", "key_id": "key_x"}, "key_id"),
            ({"credential_ids": [], "reason": "x"}, "credential_ids"),
            ({"credential_ids": ["*"], "reason": "x"}, "credential_ids"),
            ({"credential_ids": [new_id("cred")] * 101, "reason": "x"}, "credential_ids"),
        ],
    )
    def test_orders_that_are_none(self, body: dict[str, Any], field: str) -> None:
        with pytest.raises(pydantic.ValidationError) as caught:
            TokenCreate.model_validate(body)
        assert caught.value.errors()[0]["loc"][0] == field

    @pytest.mark.parametrize("ids", [None, [new_id("cred")]])
    async def test_all_or_some(self, safe: Safe, ids: list[str] | None) -> None:
        body = TokenCreate(credential_ids=ids, all=ids is not None, reason="x")
        error = await refused(safe.vault.tokens.mint(safe.act, body))
        assert (type(error), error.details["field"]) == (ValidationError, "credential_ids")

    async def test_what_it_names_is_there(self, safe: Safe, access: Access) -> None:
        made = await safe.kept()
        error = await refused(safe.token(credential_ids=[made, new_id("cred")]))
        assert error.details["field"] == "credential_ids[1]"
        assert (await refused(safe.token(key_id=new_id("key")))).details["field"] == "key_id"
        assert [entry["action"] for entry in await safe.entries()] == ["credential.create"]

    async def test_the_log_has_all_but_the_token(self, safe: Safe) -> None:
        token = await safe.token(max_uses=2, ttl_s=30)
        entry = (await safe.entries())[0]
        assert entry["target"] == token.rpartition("_")[0]
        assert (entry["details"]["reason"], entry["details"]["max_uses"]) == ("test", 2)
        assert token not in str(entry)


class TestRefusals:
    async def test_without_one(self, safe: Safe) -> None:
        made = await safe.kept()
        for sent in ([], [""], ["", ""]):
            error = await refused(safe.read(made, *sent))
            assert isinstance(error, AuthenticationError)
            assert "X-Vault-Token" in error.message
        assert await safe.tries() == [("refused", "no_token")] * 3
        assert await safe.read(made, await safe.token()) == SECRET

    async def test_every_wrong_one(self, safe: Safe, owner_key: str, store: Store) -> None:
        made, token = await safe.kept(), await safe.token()
        for sent in [
            (WRONG,),
            (token[:-1] + ("a" if token[-1] != "a" else "b"),),
            (owner_key,),
            (token, token),
            (f" {token}",),
            (f"{token}\u00e4",),
            ("*",),
        ]:
            error = await refused(safe.read(made, *sent))
            assert (type(error), error.message, error.details) == (
                AuthorizationError,
                "The vault token is wrong",
                {},
            )
            await store.call("DEL", keys.key("vault_wrong", safe.ws, key=safe.act.who.key_id))
        assert await safe.tries() == [("refused", "wrong")] * 7

    async def test_the_reason_cannot_be_forged(self, safe: Safe) -> None:
        """The caller's own words stand in the entry, too."""
        made = await safe.kept()
        act = Act(safe.act.who, Origin('"reason":"?"}}', "::1"))
        await refused(safe.vault.reveal(act, made, [WRONG]))
        entry = (await safe.entries(action="credential.read"))[0]
        assert entry["request_id"] == '"reason":"?"}}'
        assert entry["details"]["reason"] == "wrong"


class TestLockOut:
    async def lock(self, safe: Safe, credential_id: str, tries: int = MAX_WRONG) -> None:
        for _ in range(tries):
            assert isinstance(await refused(safe.read(credential_id, WRONG)), AuthorizationError)

    async def test_five_in_a_row(self, safe: Safe, clock: ManualClock) -> None:
        made, token = await safe.kept(), await safe.token(ttl_s=3600)
        await self.lock(safe, made)
        clock.advance(60_000)
        for sent in (WRONG, token):
            error = await refused(safe.read(made, sent))
            assert isinstance(error, RateLimitError)
            assert (error.details, error.retry_after) == ({"limit": "vault"}, (LOCKED_MS - 60_000) / 1000)
        clock.advance(LOCKED_MS - 60_001)
        assert isinstance(await refused(safe.read(made, token)), RateLimitError)
        clock.advance(1)
        assert await safe.read(made, token) == SECRET
        assert [reason for _, reason in await safe.tries()] == ["wrong"] * 5 + ["locked"] * 3 + [None]

    async def test_after_it_five_more(self, safe: Safe, clock: ManualClock) -> None:
        made = await safe.kept()
        await self.lock(safe, made)
        clock.advance(LOCKED_MS)
        await self.lock(safe, made)
        assert isinstance(await refused(safe.read(made, WRONG)), RateLimitError)

    async def test_a_right_one_between_begins_anew(self, safe: Safe) -> None:
        made, token = await safe.kept(), await safe.token()
        for _ in range(3):
            await self.lock(safe, made, MAX_WRONG - 1)
            assert await safe.read(made, token) == SECRET

    async def test_other_keys_go_on(self, safe: Safe) -> None:
        made, token = await safe.kept(), await safe.token()
        await self.lock(safe, made)
        assert await safe.read(made, token, key=new_id("key")) == SECRET

    async def test_real_tokens_are_no_guesses(self, safe: Safe, clock: ManualClock) -> None:
        made = await safe.kept()
        old, new = await safe.token(ttl_s=1), await safe.token()
        clock.advance(1_000)
        for _ in range(2 * MAX_WRONG):
            await refused(safe.read(made, old))
        assert await safe.read(made, new) == SECRET

    async def test_many_at_once_are_five(self, safe: Safe) -> None:
        made = await safe.kept()
        done = await asyncio.gather(*(refused(safe.read(made, WRONG)) for _ in range(20)))
        assert [type(error) for error in done].count(AuthorizationError) == MAX_WRONG

    async def test_it_ends_by_itself(self, safe: Safe, store: Store) -> None:
        made = await safe.kept()
        await self.lock(safe, made)
        name = keys.key("vault_wrong", safe.ws, key=safe.act.who.key_id)
        assert 0 < await store.call("PTTL", name) <= LOCKED_MS


class TestAudit:
    async def test_a_row_for_each_step(self, safe: Safe) -> None:
        made, other = await safe.kept("a"), await safe.kept("b")
        await safe.vault.patch(safe.act, made, CredentialPatch(tags=["x"]), None)
        await safe.vault.rotate(safe.act, made, Rotation(value="next"))
        token = await safe.token(credential_ids=[made])
        await safe.read(made, token)
        await refused(safe.read(other, token))
        await safe.vault.delete(safe.act, made, None)
        assert [entry["action"] for entry in await safe.entries(credential_id=made)] == [
            "credential.create",
            "credential.update",
            "credential.rotate",
            "credential.read",
            "credential.delete",
        ]
        assert [entry["action"] for entry in await safe.entries()][-4:] == [
            "vault_token.create",
            "credential.read",
            "credential.read",
            "credential.delete",
        ]
        read = (await safe.entries(action="credential.read", credential_id=made))[0]
        assert (read["outcome"], read["details"]) == ("ok", {"token": token.rpartition("_")[0]})

    async def test_a_key_that_is_limited(self, safe: Safe) -> None:
        made, token = await safe.kept(), await safe.token()
        who = replace(safe.act.who, agents=frozenset({new_id("agent")}))
        for ask in (
            safe.vault.reveal(Act(who), made, [token]),
            safe.vault.get(Act(who), made),
            safe.vault.delete(Act(who), made, None),
            safe.vault.tokens.mint(Act(who), TokenCreate(all=True, reason="x")),
        ):
            assert isinstance(await refused(ask), AuthorizationError)
        told = [(entry["action"], entry["outcome"]) for entry in await safe.entries()][-4:]
        assert told == [
            ("credential.read", "refused"),
            ("credential.list", "refused"),
            ("credential.delete", "refused"),
            ("vault_token.create", "refused"),
        ]
