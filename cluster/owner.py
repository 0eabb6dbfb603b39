"""The first owner and their key, straight from the store: nobody could authenticate for it yet."""

from cluster.layout import Connection, Home
from configs.settings import Settings
from kernel.assembly import Kernel

ENVIRONMENT = "dev"


async def first_key(settings: Settings) -> str | None:
    """Makes owner, workspace and key; None when there is an owner already."""
    async with Kernel.opened(settings, name="owner") as kernel:
        return await kernel.access.bootstrap(environment=ENVIRONMENT)


async def another_key(settings: Settings) -> str:
    """A key of the owner, who lost theirs."""
    async with Kernel.opened(settings, name="owner") as kernel:
        return await kernel.access.issue_owner_key(ENVIRONMENT)


def connection(home: Home, url: str, new_key: str | None) -> Connection:
    """Write down how to connect: with the new key, or the one that was known before."""
    known = home.read_connection()
    made = Connection(
        base_url=f"{url}/v1", api_key=new_key or (known.api_key if known else None), dashboard_url=f"{url}/"
    )
    if made != known:
        home.write_connection(made)
    return made
