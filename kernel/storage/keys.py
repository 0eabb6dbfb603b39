"""Every key in Redis, by name. Python and Lua both read this table, so a pattern stands in one place.

Keys of a workspace live in one of 16 shards, `cx1:{sNN}:…`: the hash tag keeps a workspace, its queue
included, on one node of a Redis Cluster, so one script is atomic there too. `cx1` is the version of the layout.
"""

import re
import zlib
from functools import lru_cache

LAYOUT = "cx1"
SHARDS = 16

SHARD_KEYS = {
    # queue
    "wake": "wake",  # list: one token when there is work; runners block on it
    "ring": "ring",  # zset of workspaces with work, by the tick they were last served
    "tick": "tick",  # counter behind the ring's scores
    "queue": "{ws}:queue",  # zset of execution ids, by priority and arrival
    "leases": "leases",  # zset of runner ids, by the moment their lease ends
    "held": "held:{runner}",  # set of `<ws> <execution>` that a runner holds
    # executions
    "execution": "{ws}:exec:{id}",  # hash: the record
    "nodes": "{ws}:exec:{id}:nodes",  # hash: the journal, node id -> its record as JSON
    "events": "{ws}:exec:{id}:events",  # stream: `<seq>-1`, field e = event as JSON
    "executions": "{ws}:execs",  # zset of all ids, score 0, so by id and so by time
    "executions_by": "{ws}:execs:{field}:{value}",  # the same, for agent, status and label
    "active": "{ws}:active",  # set of executions that hold a concurrency slot
    "busy": "busy",  # set of workspaces that have such executions, or had some a while ago
    "ended": "ended",  # zset of `<ws> <execution>`, by the moment they ended: what may be archived
    "archive": "{ws}:archive",  # zset of Parquet files, as `<first id> <last id>`
    "archived": "{ws}:archived",  # hash: counts of archived executions, by `field:value`
    "erased": "{ws}:erased",  # set of archived executions that were deleted since
    # agents
    "agent": "{ws}:agent:{id}",  # hash: version (the current one), status, revision, item as JSON
    "agent_versions": "{ws}:agent:{id}:versions",  # hash: version -> document as JSON; outlives the agent a while
    "agent_history": "{ws}:agent:{id}:history",  # list: what each version is, as JSON, newest first
    "agent_stats": "{ws}:agent:{id}:stats",  # hash: executions, completed, failed, timed_out, streak
    "agents": "{ws}:agents",  # zset of all ids, score 0
    "agents_by": "{ws}:agents:{field}:{value}",  # the same, for status, tag and prefix (of a word)
    "agents_turn": "{ws}:agents:turn",  # counter of changes to these sets: how old a counted total is
    # knowledge
    "collection": "{ws}:col:{id}",  # hash: item as JSON, revision, live (number of its vectors), chunks, bytes, …
    "collections": "{ws}:cols",  # zset of all ids, score 0
    "collection_names": "{ws}:cols:names",  # hash: name in lower case -> id
    "documents": "{ws}:col:{id}:docs",  # hash, the manifest: document id -> its live state as JSON
    "documents_by_id": "{ws}:col:{id}:docs:ids",  # zset of document ids, score 0
    "documents_newest": "{ws}:col:{id}:docs:newest",  # zset, score 0, of `<place> <document id>`, by the time taken in
    "documents_kinds": "{ws}:col:{id}:docs:kinds",  # hash: source type -> how many documents
    "documents_stale": "{ws}:col:{id}:docs:stale",  # set of `<document id> <version>` whose chunks are to be deleted
    "documents_behind": "{ws}:col:{id}:docs:behind",  # set of `<document id> <version>` for a re-index to look at
    "stale": "stale",  # set of `<ws> <collection>` that have chunks to be deleted
    "vectors_left": "vectors_left",  # zset of collections of the vector store, by the moment they are to be dropped
    "job": "{ws}:job:{id}",  # hash: order as JSON, status, counts, lease
    "job_documents": "{ws}:job:{id}:docs:{outcome}",  # list: the first documents that came to this, as JSON
    "job_blocks": "{ws}:job:{id}:blocks",  # bitmap of the blocks that its present driver has counted
    "job_events": "{ws}:job:{id}:events",  # stream: `<seq>-1`, field e = event as JSON
    "jobs": "{ws}:jobs",  # zset of all ids, score 0
    "jobs_by": "{ws}:col:{id}:jobs",  # the same, of one collection
    "jobs_active": "{ws}:jobs:active",  # set of those that have not ended
    "jobs_waiting": "jobs_waiting",  # zset of `<ws> <job>` that nobody runs, by arrival
    "jobs_running": "jobs_running",  # zset of `<ws> <job>`, by the moment their driver's lease ends
    "upload": "{ws}:upload:{id}",  # hash: name, size, path, collection; lives as long as its file
    "embeddings": "{ws}:embeddings",  # hash: SHA-256 of model and text -> its vector; lives a day
    "embeddings_at": "{ws}:embeddings:at",  # zset of the same names, by when they were put
    # requests
    "idempotency": "{ws}:idem:{id}",  # hash: fingerprint, state, answer; lives 24 h
    # metering
    "bucket": "{ws}:bucket",  # hash: debt, at, emission (µs) and reserved: how far the request bucket is drained
    "holders": "{ws}:holders",  # zset of holders of spare requests, by the µs their lease ends
    "lease": "{ws}:lease:{holder}",  # hash: number and answer of a holder's last ask, and what it holds to spare
    "usage": "{ws}:usage:{hour}",  # hash of an hour since the epoch: `<metric>` or `<metric>|<kind>|<value>` -> count
    "usage_labels": "{ws}:usage:{hour}:labels",  # string: how many labels an hour counts; lives two days
    "usage_closed": "{ws}:usage_closed",  # string: the last hour that nothing is added to any more
    "usage_rolled": "{ws}:usage_rolled",  # string: the first hour that is not in Parquet, always that of a midnight
    "metered": "metered",  # zset of workspaces, by their oldest hour that is not in Parquet
    "spend": "{ws}:spend:{period}",  # hash of a UTC day or month: `<metric>` or `<metric>|<kind>|<value>` -> count
    "budgets": "{ws}:budgets",  # hash: `<period>|<kind>|<value>` -> budget as JSON
    "alerts": "{ws}:alerts:{period}",  # hash: `<kind>|<value>|<threshold>` -> when it was told of, and at what amount
    "removed": "{ws}:removed",  # hash: `<day>|<metric>` -> what deleted executions had used
    # vault
    "credential": "{ws}:cred:{id}",  # hash: item as JSON, revision, version, sealed (the value's sealed form)
    "credentials": "{ws}:creds",  # zset of all ids, score 0
    "credentials_by": "{ws}:creds:{field}:{value}",  # the same, for type, tag and environment
    "credential_names": "{ws}:creds:names",  # hash: name in lower case -> id
    "credential_noted": "{ws}:cred:{id}:noted:{user}",  # string: that user's use is in the audit log; lives an hour
    "credential_users": "{ws}:cred:{id}:users",  # set of `<kind> <id>` of what uses it: agent, collection
    "credentials_used": "{ws}:creds:of:{user}",  # set of the credentials that one such user uses
    "vault_token": "{ws}:vault_token:{id}",  # hash: hash, key, credentials, until (ms), left; lives an hour longer
    "vault_wrong": "{ws}:vault_wrong:{key}",  # hash: count of a key's wrong tokens in a row, until (ms) they count
    "refreshing": "{ws}:refreshing:{id}",  # string: who asks for a credential's next access token; lives 30 s
    "sealed": "sealed",  # set of `<ws> <kind> <id>` of all that is sealed: cred, wh
    # webhooks
    "webhook": "{ws}:wh:{id}",  # hash: item as JSON, revision, events, sealed, state, failing_since, paused_until, last
    "webhooks": "{ws}:whs",  # zset of all ids, score 0
    "webhook_events": "{ws}:whs:events",  # hash: event name or `*` -> how many endpoints want it now
    "webhooks_due": "{ws}:whs:due",  # zset of endpoints with something to deliver, by the ms the first of it is due
    "webhooks_waiting": "{ws}:whs:waiting",  # string: bytes of all deliveries that wait; at most 64 MB and one event
    "webhook_queue": "{ws}:wh:{id}:queue",  # zset of event ids to be delivered there, by the ms they are due
    "webhook_flying": "{ws}:wh:{id}:flying",  # set of event ids that the courier is delivering
    "webhook_log": "{ws}:wh:{id}:log",  # zset of event ids, score 0: the deliveries that are still known
    "webhook_log_by": "{ws}:wh:{id}:log:{status}",  # the same, of those that are pending, delivered or dead
    "webhook_deliveries": "{ws}:wh:{id}:deliveries",  # hash: event id -> delivery with its attempts as JSON
    "message": "{ws}:message:{id}",  # hash: an event as every endpoint gets it, how many know it and wait; lives 7 days
    "messages_ended": "{ws}:messages:ended",  # zset of those that nobody waits for, score 0
    "outbox": "outbox",  # stream: events to tell others of, as fields ws, event, at and x (execution) or d (data)
    "due": "due",  # zset of workspaces with something to deliver, by the ms the first of it is due
    "aloft": "aloft",  # set of `<ws> <webhook>` that the courier is delivering to
    "courier": "courier",  # string: the courier that works for this shard; lives a few seconds
    # access
    "workspace": "{ws}:workspace",  # hash: name, plan, limits (overrides as JSON), status, created_at
    "audit": "{ws}:audit",  # zset, score 0, of `<event id> <entry as JSON>`: only ever added to
    "audit_order": "{ws}:audit:order",  # list of event ids in the order they were added
    "audit_chain": "{ws}:audit:chain",  # list: for each of those, its MAC over the one before and the entry
    "audit_open": "audit_open",  # set of workspaces with entries that are not in the chain yet
    "audit_by": "{ws}:audit:{field}:{value}",  # zset of event ids: by action, user_id, key_id, vault, credential
    "workspace_keys": "{ws}:keys",  # zset of key ids, score 0
    "members": "{ws}:members",  # hash: user id -> role
    "emails": "{ws}:emails",  # hash: a member's email in lower case -> user id
    "key": "key:{id}",  # hash: an API key; its id is made to fall in its workspace's shard
    "user": "user:{id}",  # hash: name, email, created_at, made (how many workspaces they have)
    "user_workspaces": "user:{id}:workspaces",  # zset of workspace ids, score 0
    "access_turn": "access_turn",  # counter of changes to keys, workspaces and members
    "owner": "owner",  # string, in shard 0 alone: the user who owns the installation
}

GLOBAL_KEYS = {
    "runners": "runners",  # zset of runner ids, by the moment they last showed that they live
    "layout": "layout",  # string: how many migrations have run
    "calls": "calls:{{{id}}}",  # set of marks, one for each call of the scripted model, by idempotency key
    "ticket": "ticket:{{{id}}}",  # string: what a stream ticket opens; lives 30 s
}

CHANNELS = {
    "stream": "{ws}:stream:{id}",  # events of one execution as they are written
    "replies": "replies:{id}",  # executions that ended, to the API replica that waits for them
    "orders": "orders:{runner}",  # executions to cancel, to the runner that holds them
    "outbox": "outbox",  # a shard that has an event to tell, to all couriers
    "drain": "drain",  # to all couriers: end what is in flight, and give your shards up
    "jobs": "jobs",  # `<ws> <job>` of an ingestion that waits or was cancelled, to all drivers
    "revoked": "revoked",  # ids of API keys that changed, to every replica
}


@lru_cache(maxsize=65_536)
def shard_of(workspace_id: str) -> int:
    return zlib.crc32(workspace_id.encode()) % SHARDS


def prefix(shard: int) -> str:
    return f"{LAYOUT}:{{s{shard:02}}}"


PREFIXES = tuple(prefix(shard) for shard in range(SHARDS))


def prefix_of(workspace_id: str) -> str:
    return PREFIXES[shard_of(workspace_id)]


def key(name: str, workspace_id: str, **parts: str) -> str:
    """The key `name` of a workspace."""
    return f"{prefix_of(workspace_id)}:{SHARD_KEYS[name].format(ws=workspace_id, **parts)}"


def shard_key(name: str, shard: int, **parts: str) -> str:
    """A key that a whole shard shares."""
    return f"{PREFIXES[shard]}:{SHARD_KEYS[name].format(**parts)}"


def global_key(name: str, **parts: str) -> str:
    return f"{LAYOUT}:{GLOBAL_KEYS[name].format(**parts)}"


def channel(name: str, workspace_id: str = "", **parts: str) -> str:
    return f"{LAYOUT}:{CHANNELS[name].format(ws=workspace_id, **parts)}"


def lua_functions(text: str) -> str:
    """`K.execution(ws, id)` and so on, over the prefix that scripts get as KEYS[1], and `C.…` for channels:
    those that the text calls."""
    patterns = {"K": SHARD_KEYS, "C": CHANNELS}
    starts = {"K": "KEYS[1]..':", "C": f"'{LAYOUT}:"}
    called = dict.fromkeys(re.findall(r"\b([KC])\.(\w+)\(", text))
    lines = [_lua(table, name, f"{starts[table]}{patterns[table][name]}'") for table, name in called]
    return "\n".join(["local K, C = {}, {}", *lines])


def _lua(table: str, name: str, expression: str) -> str:
    names = re.findall(r"{(\w+)}", expression)
    body = re.sub(r"{(\w+)}", r"'..\1..'", expression).replace("..''", "")
    return f"function {table}.{name}({', '.join(names)}) return {body} end"


def shard_of_key(name: str) -> int:
    """The shard that a key of ours belongs to."""
    return int(name[len(LAYOUT) + 3 : len(LAYOUT) + 5])
