"""Usage as tests write it: straight into the buckets, by the names that all agree on."""

from kernel.storage import keys
from kernel.storage.store import Store


async def add_usage(store: Store, workspace_id: str, hour: int, counts: dict[str, int]) -> None:
    """counts: field of the bucket -> what is added."""
    await store.call("ZADD", keys.shard_key("metered", keys.shard_of(workspace_id)), "NX", hour, workspace_id)
    bucket = keys.key("usage", workspace_id, hour=str(hour))
    await store.together(*(("HINCRBY", bucket, field, count) for field, count in counts.items()))
