"""The audit log: every change and every refusal is in it, and nothing ever leaves it."""

import csv
import io
import re
from typing import Any

import orjson
import pytest

from kernel.access.access import Access
from kernel.access.audit import CHUNK, COLUMNS, AuditFilter, Format, Origin
from kernel.access.members import MemberCreate
from kernel.access.principal import Principal
from kernel.access.record import KeyPatch, KeyRotation
from kernel.access.roles import Role
from kernel.access.workspaces import WorkspaceCreate, WorkspacePatch
from kernel.clock import ManualClock, rfc3339
from kernel.errors import AuthorizationError, CodexError
from kernel.ids import new_id
from kernel.paging import PageQuery
from kernel.storage.store import SCRIPTS
from tests.access import joined, order

pytestmark = pytest.mark.anyio

FROM = Origin("req_1", "192.0.2.7")
Entry = dict[str, Any]


async def entries(access: Access, workspace_id: str, **wanted: Any) -> list[Entry]:
    """Newest first."""
    page = await access.trail.list(workspace_id, AuditFilter(**wanted), PageQuery(1, 100))
    assert page.total == len(page.items)
    return page.items


async def newest(access: Access, who: Principal) -> Entry:
    """But for the first owner's key: entries of one millisecond have no order."""
    return next(one for one in await entries(access, who.workspace_id) if "by" not in one["details"])


async def exported(access: Access, who: Principal, kind: Format, **wanted: Any) -> bytes:
    parts = access.trail.export(who.workspace_id, AuditFilter(**wanted), kind)
    return b"".join([part async for part in parts])


class TestWhatIsInIt:
    async def test_an_entry_says_who_what_when_and_from_where(
        self, access: Access, owner: Principal, clock: ManualClock
    ) -> None:
        clock.advance(1000)
        made = (await access.keys.create(owner, order("agents:read"), FROM)).key.id
        entry = await newest(access, owner)
        assert entry.pop("id").startswith("evt_")
        assert entry == {
            "created_at": rfc3339(clock.now_ms()),
            "user_id": owner.user_id,
            "key_id": owner.key_id,
            "action": "key.create",
            "target": made,
            "outcome": "ok",
            "request_id": "req_1",
            "address": "192.0.2.7",
            "details": {"name": "CI", "scopes": ["agents:read"], "user_id": owner.user_id},
        }

    async def test_every_change_is(self, access: Access, owner: Principal, clock: ManualClock) -> None:
        """One entry for each, in the workspace that was changed."""
        ws = owner.workspace_id

        async def told(action: str, target: str) -> Entry:
            entry = await newest(access, owner)
            assert (entry["action"], entry["target"], entry["outcome"]) == (action, target, "ok")
            clock.advance(1000)
            return entry["details"]

        clock.advance(1000)
        key = (await access.keys.create(owner, order("agents:read"))).key.id
        await told("key.create", key)
        await access.keys.update(owner, key, KeyPatch(name="New"))
        assert await told("key.update", key) == {"name": "New"}
        successor = (await access.keys.rotate(owner, key, KeyRotation())).key.id
        assert (await told("key.rotate", key))["successor"] == successor
        await access.keys.revoke(owner, key)
        await told("key.revoke", key)
        member = await access.members.add(owner, ws, MemberCreate(name="Ada", role=Role.VIEWER))
        assert await told("member.add", member["user_id"]) == {"role": "viewer", "name": "Ada"}
        await access.members.change(owner, ws, member["user_id"], Role.ADMIN)
        assert await told("member.update", member["user_id"]) == {"role": "admin"}
        await access.members.change(owner, ws, member["user_id"], None)
        await told("member.remove", member["user_id"])
        await access.workspaces.update(owner, ws, WorkspacePatch(plan="pro"))
        assert await told("workspace.update", ws) == {"plan": "pro"}
        assert [one["action"] for one in await entries(access, ws)][-1] == "workspace.create"
        assert len(await entries(access, ws)) == 9

    async def test_it_is_of_the_workspace_that_was_changed(self, access: Access, owner: Principal) -> None:
        other = await access.workspaces.create(owner, WorkspaceCreate(name="Other"))
        await access.keys.create(owner, order("admin", workspace_id=other.id))
        told = {entry["action"] for entry in await entries(access, other.id)}
        assert told == {"workspace.create", "key.create"}
        assert [entry["action"] for entry in await entries(access, owner.workspace_id)] == [
            "workspace.create"
        ]

    async def test_what_changes_nothing_is_not(self, access: Access, owner: Principal) -> None:
        ada = await access.members.add(owner, owner.workspace_id, MemberCreate(name="Ada", role=Role.VIEWER))
        await access.members.change(owner, owner.workspace_id, ada["user_id"], None)
        before = await entries(access, owner.workspace_id)
        for ask in (
            access.members.change(owner, owner.workspace_id, owner.user_id, None),
            access.members.change(owner, owner.workspace_id, ada["user_id"], None),
            access.keys.revoke(owner, "key_x"),
        ):
            with pytest.raises(CodexError):
                await ask
        assert await entries(access, owner.workspace_id) == before

    async def test_an_edit_that_leaves_all_as_it_was_is_not(self, access: Access, owner: Principal) -> None:
        ws, key = owner.workspace_id, (await access.keys.create(owner, order("agents:read"))).key
        before = await entries(access, ws)
        shown = await access.keys.get(owner, key.id)
        same = KeyPatch(name=key.name, scopes=key.scopes, expires_at=None)
        assert await access.keys.update(owner, key.id, same) == shown
        assert await access.keys.update(owner, key.id, KeyPatch()) == shown
        assert (await access.workspaces.update(owner, ws, WorkspacePatch(name="Default"))).name == "Default"
        assert (await access.members.change(owner, ws, owner.user_id, Role.OWNER))["role"] == "owner"
        assert await entries(access, ws) == before

    async def test_no_more_than_2_kb_of_details_are(self, access: Access, owner: Principal) -> None:
        agents = [new_id("agent") for _ in range(100)]
        await access.keys.create(owner, order("agents:read", agents=agents))
        shown = await entries(access, owner.workspace_id)
        assert next(one["details"] for one in shown if one["details"].get("truncated")) == {
            "name": "CI",
            "scopes": ["agents:read"],
            "user_id": owner.user_id,
            "truncated": True,
        }
        await access.trail.note(owner, FROM, "test.note", "x", {"said": "x" * 2037})
        assert (await newest(access, owner))["details"] == {"said": "x" * 2037}

    async def test_refusals_are(self, access: Access, owner: Principal) -> None:
        who = await joined(access, owner, "developer", "agents:read")
        for ask in (
            access.keys.create(who, order("admin"), FROM),
            access.keys.update(who, owner.key_id, KeyPatch(name="mine"), FROM),
            access.keys.rotate(who, owner.key_id, KeyRotation(), FROM),
            access.keys.revoke(who, owner.key_id, FROM),
            access.workspaces.update(who, who.workspace_id, WorkspacePatch(plan="pro"), FROM),
            access.members.change(who, who.workspace_id, owner.user_id, None, FROM),
            access.members.add(who, who.workspace_id, MemberCreate(name="X", role=Role.OWNER), FROM),
        ):
            with pytest.raises(AuthorizationError):
                await ask
        told = await entries(access, who.workspace_id, key_id=who.key_id)
        assert {entry["outcome"] for entry in told} == {"refused"}
        assert {entry["request_id"] for entry in told} == {"req_1"}
        assert sorted(entry["action"] for entry in told) == [
            *("key.create", "key.revoke", "key.rotate", "key.update"),
            *("member.add", "member.remove", "workspace.update"),
        ]
        scopes = [entry["details"] for entry in told if entry["action"] == "key.create"]
        assert scopes == [{"reason": "This key lacks the scope admin", "scope": "admin"}]

    async def test_no_secret_is(self, access: Access, owner: Principal) -> None:
        made = await access.keys.create(owner, order("admin"))
        new = await access.keys.rotate(owner, made.key.id, KeyRotation())
        log = await exported(access, owner, "jsonl")
        for token in (made.token, new.token):
            assert token.rsplit("_", 1)[1].encode() not in log

    async def test_what_somebody_gave_as_an_id_is_not(self, access: Access, owner: Principal) -> None:
        who = await joined(access, owner, "viewer", "agents:read")
        for name in ("x" * 100_000, "\ud800", "user_\n"):
            with pytest.raises(AuthorizationError):
                await access.members.change(who, who.workspace_id, name, None)
        assert {entry["target"] for entry in await entries(access, who.workspace_id, key_id=who.key_id)} == {
            ""
        }


class TestReading:
    async def test_filters_combine(self, access: Access, owner: Principal, clock: ManualClock) -> None:
        admin = await joined(access, owner, "admin", "admin")
        clock.advance(1000)
        begin, made = clock.now_ms(), []
        for who in (owner, admin, admin):
            made.append((await access.keys.create(who, order("agents:read"))).key.id)
            clock.advance(1000)
        await access.keys.update(admin, made[1], KeyPatch(name="x"))
        ws = owner.workspace_id

        async def targets(**wanted: Any) -> list[str]:
            return [entry["target"] for entry in await entries(access, ws, **wanted)]

        assert await targets(action="key.create", after=begin) == made[::-1]
        assert await targets(action="key.create", user_id=admin.user_id) == [made[2], made[1]]
        assert await targets(action="key.update", key_id=admin.key_id) == [made[1]]
        assert await targets(action="key.create", after=begin, before=begin + 2000) == [made[1], made[0]]
        assert await targets(after=begin + 1000, before=begin + 1001, user_id=admin.user_id) == [made[1]]
        assert await targets(user_id="user_x") == []
        assert await targets(action="*") == []

    async def test_pages_are_newest_first_and_go_on(
        self, access: Access, owner: Principal, clock: ManualClock
    ) -> None:
        for number in range(7):
            clock.advance(1)
            await access.trail.note(owner, FROM, "test.note", str(number))
        for wanted in (AuditFilter(action="test.note"), AuditFilter(after=clock.now_ms() - 6)):
            seen: list[str] = []
            query = PageQuery(1, 3)
            while True:
                page = await access.trail.list(owner.workspace_id, wanted, query)
                assert page.total == 7
                seen += [entry["target"] for entry in page.items]
                if not page.more:
                    break
                query = PageQuery(1, 3, page.last_id)
            assert seen == list("6543210")
        second = await access.trail.list(owner.workspace_id, AuditFilter(action="test.note"), PageQuery(2, 3))
        assert [entry["target"] for entry in second.items] == ["3", "2", "1"]

    async def test_an_export_is_all_of_it_oldest_first(
        self, access: Access, owner: Principal, clock: ManualClock
    ) -> None:
        many = 2 * CHUNK + 1
        for number in range(many):
            clock.advance(1)
            await access.trail.note(owner, FROM, "test.note", str(number))
        lines = (await exported(access, owner, "jsonl", action="test.note")).splitlines()
        assert [orjson.loads(line)["target"] for line in lines] == [str(number) for number in range(many)]
        late = await exported(access, owner, "jsonl", after=clock.now_ms(), before=clock.now_ms() + 1)
        assert [orjson.loads(line)["target"] for line in late.splitlines()] == [str(many - 1)]
        rows = list(csv.reader(io.StringIO((await exported(access, owner, "csv")).decode())))
        assert tuple(rows[0]) == COLUMNS
        assert len(rows) == many + 2

    @pytest.mark.parametrize("risky", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
    async def test_a_spreadsheet_takes_nothing_for_a_formula(
        self, access: Access, owner: Principal, risky: str
    ) -> None:
        await access.trail.note(owner, Origin(risky, risky), "test.note", risky, {"said": risky})
        text = (await exported(access, owner, "csv", action="test.note")).decode()
        row = dict(zip(COLUMNS, list(csv.reader(io.StringIO(text, newline="")))[1], strict=True))
        assert row["target"] == row["address"] == row["request_id"] == f"'{risky}"
        assert orjson.loads(row["details"]) == {"said": risky}

    async def test_an_empty_export(self, access: Access, owner: Principal) -> None:
        assert await exported(access, owner, "jsonl", action="none") == b""
        assert (await exported(access, owner, "csv", action="none")).decode() == ",".join(COLUMNS) + "\r\n"


class TestNothingLeavesIt:
    def test_scripts_add_or_read(self) -> None:
        """Of all scripts only `note_audit` writes there, and `note_vault` into its index; they only add."""
        functions = re.findall(
            r"^local function (\w+)(.*?)^end$", (SCRIPTS / "_prelude.lua").read_text(), re.M | re.S
        )
        writers = {name: body for name, body in functions if "K.audit" in body}
        assert set(writers) == {"note_audit", "note_vault"}
        pattern = re.compile(r"redis\.call\('(\w+)', (K\.audit\w*)\(.*?\), ('NX')?")
        assert pattern.findall(writers["note_vault"]) == [("ZADD", "K.audit_by", "'NX'")] * 2
        assert pattern.findall(writers["note_audit"]) == [
            ("ZADD", "K.audit", "'NX'"),
            ("RPUSH", "K.audit_order", ""),
            ("SADD", "K.audit_open", ""),
            ("ZADD", "K.audit_by", "'NX'"),
        ]
        for path in SCRIPTS.glob("[!_]*.lua"):
            if "K.audit" in (text := path.read_text()) and path.stem not in ("audit_seal", "audit_number"):
                assert text.startswith("#!lua flags=no-writes"), path.name

    def test_the_chain_only_adds(self) -> None:
        """The scripts beside it write no entry: they number and seal those there are."""
        texts = [(SCRIPTS / f"{name}.lua").read_text() for name in ("audit_seal", "audit_number")]
        writes = {match for text in texts for match in re.findall(r"'((?:Z|S|H|L|R)[A-Z]+)', ", text)}
        assert writes == {"LLEN", "LPUSH", "LRANGE", "RPUSH", "SREM", "SADD", "ZRANGE"}

    def test_so_does_python(self) -> None:
        package = SCRIPTS.parents[1]
        users = {path for path in package.rglob("*.py") if re.search(r"key\(\s*\"audit", path.read_text())}
        assert users == {SCRIPTS.parent / "audit.py"}
        commands = re.findall(r'\.call\(\s*"(\w+)"', (SCRIPTS.parent / "audit.py").read_text())
        assert set(commands) == {"ZRANGEBYLEX", "LRANGE"}
        pairs = set(re.findall(r'\(\s*"([A-Z]+)", ', (SCRIPTS.parent / "audit.py").read_text()))
        assert pairs == {"ZRANGEBYLEX", "SMEMBERS", "LLEN", "LRANGE", "ZCARD"}

    async def test_an_entry_that_is_there_is_not_replaced(self, access: Access, owner: Principal) -> None:
        before = await entries(access, owner.workspace_id)
        text = access.trail.text(owner, FROM, "test.note", "x")
        for _ in range(2):
            await access.trail._store.add(owner.workspace_id, text)
        assert len(await entries(access, owner.workspace_id)) == len(before) + 1

    async def test_the_log_outlives_what_it_tells_of(self, access: Access, owner: Principal) -> None:
        key = (await access.keys.create(owner, order("agents:read"))).key.id
        await access.keys.revoke(owner, key)
        assert {entry["target"] for entry in await entries(access, owner.workspace_id)} >= {key}
