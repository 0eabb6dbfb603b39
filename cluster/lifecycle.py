"""`up` and `down`: start a keeper and tell what it does, or stop it and what it left."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2

from cluster import checks, demo, owner, printing
from cluster.environment import python_path, resolved
from cluster.failure import Refused
from cluster.layout import ROOT, Connection, Home
from cluster.parts.application import proxy_of
from cluster.processes import Process, alive, in_session, send, stop, wait_gone
from cluster.state import State, boot_id, forget_steps, read_state, read_steps
from configs.settings import Settings
from kernel.errors import CodexError

STOP_S = 60.0
Answer = TypeVar("Answer")


def up(home: Home, settings: Settings) -> None:
    """Returns when the platform serves and its first run is through. Raises Refused, all stopped again."""
    state = read_state(home)
    if state and state.keeper_alive() and state.ready:
        return _already(home, state)
    if state and state.keeper_alive():
        return _follow(home, lambda: not state.keeper_alive())
    checks.demand(checks.preflight(home, settings, running=bool(state and state.any_alive())))
    home.prepare()
    _start(home, settings)


def _already(home: Home, state: State) -> None:
    printing.step("already running", f"version {state.version}, keeper {state.keeper.pid}")
    printing.closing(home, owner.connection(home, state.url, None), key_is_new=False)


def _start(home: Home, settings: Settings) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    child = _launch_keeper(home)
    try:
        _follow(home, lambda: child.poll() is not None)
        _introduce(home, settings)
    except KeyboardInterrupt:
        printing.line("\n  stopping what was started …")
        child.terminate()
        child.wait()
        raise
    except Refused:
        child.terminate()
        child.wait()
        _stop_left(home)
        raise


def _launch_keeper(home: Home) -> "subprocess.Popen[bytes]":
    forget_steps(home)
    with (home.logs / "keeper.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "cluster", "keeper"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "CODEXOS_HOME": str(home.path), "PYTHONPATH": python_path()},
            cwd=ROOT,
            start_new_session=True,
        )


def _follow(home: Home, ended: Callable[[], bool]) -> None:
    """Print the keeper's steps as they come, until all parts serve."""
    seen = 0
    while True:
        over = ended()
        for step in read_steps(home, after=seen):
            seen += 1
            if step.kind == "ready":
                return
            if step.kind == "failed":
                raise Refused(step.facts, step.remedy)
            printing.step(step.name, step.facts, step.seconds)
        if over:
            raise Refused("the keeper ended", f"see {home.logs / 'keeper.log'}")
        time.sleep(0.1)


def _introduce(home: Home, settings: Settings) -> None:
    """The first key, the model, the first run, and where to go from here."""
    state = read_state(home)
    assert state
    key = asyncio.run(_asked(owner.first_key(resolved(settings, home, state.ports))))
    connection = owner.connection(home, state.url, key)
    if connection.api_key:
        _show(connection)
    printing.closing(home, connection, key_is_new=key is not None)


def _show(connection: Connection) -> None:
    """A first run that fails is told, but stops nothing: the platform serves."""
    began = time.monotonic()
    with demo.client(connection) as api:
        try:
            printing.step("model", demo.model_state(api), time.monotonic() - began)
            demo.run(api)
        except (Refused, httpx2.HTTPError) as failure:
            printing.step("first run", str(failure), mark=printing.FAILED)


def new_key(home: Home, settings: Settings) -> None:
    state = read_state(home)
    if state is None or not state.keeper_alive():
        raise Refused("the platform is not running", "start it: make up")
    key = asyncio.run(_asked(owner.another_key(resolved(settings, home, state.ports))))
    printing.closing(home, owner.connection(home, state.url, key), key_is_new=True)


async def _asked(question: Awaitable[Answer]) -> Answer:
    """What the kernel answers, its errors in the words of a command."""
    try:
        return await question
    except CodexError as error:
        raise Refused(error.message, "see `make status` and the logs") from error


def down(home: Home) -> None:
    """Stop everything of this home, whoever started it. Data stays."""
    state = read_state(home)
    began = time.monotonic()
    if state is None or not (state.keeper_alive() or state.any_alive()):
        printing.step("not running", str(home.path))
        return
    if state.keeper_alive():
        send(state.keeper, signal.SIGTERM)
        if not wait_gone(state.keeper, STOP_S):
            send(state.keeper, signal.SIGKILL)
    _stop_left(home)
    forget_steps(home)
    printing.step("stopped", "all data is kept", time.monotonic() - began)


def _stop_left(home: Home) -> None:
    """What a killed keeper left behind, in the order a keeper stops it."""
    state = read_state(home)
    if state is None or state.boot != boot_id():
        return
    proxy = proxy_of(home)
    asyncio.run(stop([proxy] if proxy else [], 1))
    for name in ("cluster", "vectors", "store"):
        asyncio.run(stop(_of_part(state, name), STOP_S if name == "store" else 5))
    home.clear_sockets()


def _of_part(state: State, name: str) -> list[Process]:
    part = state.parts.get(name)
    if part is None:
        return []
    members = in_session(part.session) if part.session else []
    recorded = [process for process in part.processes.values() if alive(process)]
    return [*recorded, *(member.process for member in members if member.process not in recorded)]
