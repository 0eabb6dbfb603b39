"""What secrets cost: decrypted reads beside reads of an agent, and a new key-encryption key while everybody reads.

`reveal` reads one credential with a vault token, `agent` one agent with the same key, by turns. `rotation` stores
10,000 credentials and runs `python -m cluster vault rotate` while eight callers read them; every answer must be 200.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Queue

import httpx2

from benchmarks.http_load import Request, load
from benchmarks.installation import Installation
from benchmarks.limits import Owner, owner
from benchmarks.results import Figure

CONNECTIONS = 16
WARM_UP = -1
CREDENTIALS = 10_000
WRITERS, READERS = 16, 8
HOUR_S = 3600


@dataclass(slots=True)
class Reading:
    """What callers who read without pause were answered."""

    reads: int = 0
    failed: int = 0
    ended: threading.Event = field(default_factory=threading.Event)


def all_of_them(seconds: int, rounds: int) -> Iterator[Figure]:
    with Installation("vault").running() as installation:
        yield from reveal(installation, seconds, rounds)
        yield from rotation(installation)


def reveal(installation: Installation, seconds: int, rounds: int) -> Iterator[Figure]:
    """Ratios are of requests per second within a round."""
    me, headers = owner(installation), installation.headers
    credential = next(iter(_there(me)), None) or _credential(me, "Benchmark")
    token, agent = _token(me), me.agent(installation.key)
    requests = {
        "agent": Request(f"{installation.url}/v1/agents/{agent}", headers),
        "reveal": Request(
            f"{installation.url}/v1/vault/credentials/{credential}", headers | {"X-Vault-Token": token}
        ),
    }
    for number in range(WARM_UP, rounds):
        order = sorted(requests, reverse=number % 2 == 1)
        loads = {case: load(requests[case], CONNECTIONS, seconds) for case in order}
        if number != WARM_UP:
            for case, one in loads.items():
                yield Figure(case, "req_s", one.req_s)
                yield Figure(case, "p50_ms", one.p50_ms)
            yield Figure("reveal/agent", "ratio", loads["reveal"].req_s / loads["agent"].req_s)


def rotation(installation: Installation) -> Iterator[Figure]:
    me = owner(installation)
    names = _fill(installation, me)
    token, reading = _token(me), Reading()
    readers = [
        threading.Thread(target=_read, args=(installation, names[at::READERS], token, reading))
        for at in range(READERS)
    ]
    for reader in readers:
        reader.start()
    began = time.monotonic()
    installation.command("vault", "rotate")
    took = time.monotonic() - began
    reading.ended.set()
    for reader in readers:
        reader.join()
    yield Figure("rotation", "seconds", took)
    yield Figure("rotation", "reads", reading.reads)
    yield Figure("rotation", "failed", reading.failed)


def _fill(installation: Installation, me: Owner) -> list[str]:
    """Ids of 10,000 credentials: those that earlier runs have left, and new ones."""
    made, wanted = _there(me), Queue[int]()
    for number in range(len(made), CREDENTIALS):
        wanted.put(number)

    def fill() -> None:
        mine = owner(installation)
        with suppress(Empty):
            while True:
                made.append(_credential(mine, f"Benchmark {time.time_ns()} {wanted.get_nowait()}"))

    writers = [threading.Thread(target=fill) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    return made


def _there(me: Owner) -> list[str]:
    found: list[str] = []
    query: dict[str, str] | None = {"limit": "100"}
    while query is not None:
        page = me.http.get("/v1/vault/credentials", params=query).raise_for_status().json()
        found += [one["id"] for one in page["credentials"]]
        cursor = page["next_cursor"]
        query = {"limit": "100", "cursor": cursor} if cursor else None
    return found


def _read(installation: Installation, names: list[str], token: str, reading: Reading) -> None:
    headers = installation.headers | {"X-Vault-Token": token}
    with httpx2.Client(base_url=installation.url, headers=headers, trust_env=False, timeout=30) as client:
        while not reading.ended.is_set():
            for name in names:
                answer = client.get(f"/v1/vault/credentials/{name}")
                reading.reads += 1
                reading.failed += answer.status_code != 200 or "value" not in answer.json()
                if reading.ended.is_set():
                    return


def _credential(me: Owner, name: str) -> str:
    order = {"name": name, "type": "api_key", "value": f"sk-benchmark-{name.lower().replace(' ', '-')}"}
    answer = me.http.post("/v1/vault/credentials", json=order)
    answer.raise_for_status()
    return str(answer.json()["id"])


def _token(me: Owner) -> str:
    order = {"all": True, "ttl_s": HOUR_S, "reason": "benchmark"}
    answer = me.http.post(
        "/v1/vault/tokens", content=json.dumps(order), headers={"Content-Type": "application/json"}
    )
    answer.raise_for_status()
    return str(answer.json()["token"])
