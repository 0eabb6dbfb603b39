"""Choice of TCP ports: the API's is the user's, all others are whatever is free, kept over restarts."""

import socket
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

LOOPBACK = "127.0.0.1"
REPLICAS_PER_HOME = 100
REPLICA_RANGES = range(30_000, 32_700, REPLICAS_PER_HOME)


class Ports(BaseModel):
    """replicas: the first of the hundred ports that API replicas listen on."""

    model_config = ConfigDict(frozen=True)

    api: int
    valkey: int
    milvus: int
    gcs: int
    agent: int
    proxy: int
    proxy_metrics: int
    replicas: int


def reachable(host: str) -> str:
    """The address at which this machine reaches a server that listens on `host`."""
    return LOOPBACK if host in ("0.0.0.0", "::", "localhost") else host


def is_free(port: int) -> bool:
    """Whether a server could listen there, on loopback and on all interfaces."""
    for host in (LOOPBACK, ""):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def choose(api: int, kept: Ports | None) -> Ports:
    """Ports for one start: those of the last one where they are still free."""
    offers = _offers()
    wanted = kept or Ports(
        api=api,
        valkey=6390,
        milvus=19540,
        gcs=6391,
        agent=6392,
        proxy=6393,
        proxy_metrics=6394,
        replicas=30_000,
    )
    chosen: dict[str, int] = {"api": api}
    for name, port in wanted.model_dump(exclude={"api", "replicas"}).items():
        chosen[name] = port if port not in chosen.values() and is_free(port) else next(offers)
    return Ports(**chosen, replicas=_replica_range(wanted.replicas))


def _offers() -> Iterator[int]:
    """Free ports of the system's choice, each a different one: they stay open until all are given out."""
    held: list[socket.socket] = []
    try:
        while True:
            probe = socket.socket()
            held.append(probe)
            probe.bind(("", 0))
            yield probe.getsockname()[1]
    finally:
        for probe in held:
            probe.close()


def _replica_range(wanted: int) -> int:
    ranges = [wanted, *(first for first in REPLICA_RANGES if first != wanted)]
    free = (first for first in ranges if all(is_free(first + offset) for offset in range(8)))
    return next(free, wanted)
