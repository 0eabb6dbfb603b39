"""The way to Redis: connections that heal, and the scripts by name.

Each file of `scripts/` is one atomic step. `_prelude.lua` and the key functions stand before each of them.
"""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha1
from pathlib import Path
from typing import Any

from kernel.errors import Unavailable
from kernel.storage import keys
from kernel.storage.wire import ANSWER_WITHIN_S, Argument, Push, Wire, connect

SCRIPTS = Path(__file__).parent / "scripts"
PATIENCE_S = 2.0
"""How long a call waits for a lost store to come back."""


def load_scripts() -> dict[str, bytes]:
    """Name -> text, ready to run: before each script stand the functions it uses, and no others.

    A script's text is compiled once, but what stands at its top runs with every call.
    """
    common = _functions((SCRIPTS / "_prelude.lua").read_text())
    return {path.stem: _assemble(path.read_text(), common) for path in SCRIPTS.glob("[!_]*.lua")}


def _functions(text: str) -> dict[str, str]:
    """The top-level functions of a Lua text, by name, in their order."""
    return {
        found[1]: found[0] for found in re.finditer(r"^local function (\w+)\(.*?^end$", text, re.M | re.S)
    }


def _assemble(text: str, common: Mapping[str, str]) -> bytes:
    """A first line `#!lua …` stays first."""
    head, _, rest = text.partition("\n")
    head, body = (head, rest) if head.startswith("#!") else ("", text)
    used = _used(body, common)
    functions = "\n".join(common[name] for name in common if name in used)
    names = keys.lua_functions(functions + body)
    return "\n".join(part for part in (head, names, functions, body) if part).encode()


def _used(text: str, common: Mapping[str, str]) -> set[str]:
    """Functions that a text calls, and those that they call."""
    found: set[str] = set()
    texts = [text]
    while texts:
        words = set(re.findall(r"\b(\w+)\(", texts.pop()))
        fresh = (words & common.keys()) - found
        found |= fresh
        texts += [common[name] for name in fresh]
    return found


class Store:
    """A shared connection for commands and scripts. Safe for any number of tasks of one event loop."""

    def __init__(self, url: str, name: str = "codexos"):
        self.url, self.name = url, name
        self._scripts = load_scripts()
        self._sha = {script: sha1(text).hexdigest() for script, text in self._scripts.items()}
        self._wire: Wire | None = None
        self._dialing: asyncio.Task[Wire] | None = None

    async def call(self, *command: Argument) -> Any:
        """One command. Raises Unavailable when the store cannot be reached or is full."""
        return await (self._live() or await self._wait()).call(*command)

    async def together(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Several commands in one go; they are not one atomic step."""
        wire = self._live() or await self._wait()
        return await asyncio.gather(*(wire.call(*command) for command in commands))

    async def run(self, script: str, workspace_or_prefix: str, *args: Argument) -> Any:
        """One script. Its KEYS[1] is the shard's prefix; ARGV are `args`, in the order its header tells."""
        prefix = workspace_or_prefix
        if not prefix.startswith(keys.LAYOUT):
            prefix = keys.prefix_of(workspace_or_prefix)
        return await self.call("EVALSHA", self._sha[script], 1, prefix, *args)

    async def close(self) -> None:
        if self._dialing is not None:
            self._dialing.cancel()
        if self._wire is not None:
            self._wire.close()

    def _live(self) -> Wire | None:
        return self._wire if self._wire is not None and not self._wire.lost.is_set() else None

    async def _wait(self) -> Wire:
        if self._dialing is None or self._dialing.done():
            self._dialing = asyncio.create_task(self._dial())
        try:
            return await asyncio.wait_for(asyncio.shield(self._dialing), PATIENCE_S)
        except TimeoutError:
            raise Unavailable("The store cannot be reached", {"reason": "store_down"}) from None

    async def _dial(self) -> Wire:
        delay = 0.02
        while True:
            try:
                self._wire = await self._prepared()
                return self._wire
            except Unavailable:
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                delay = min(delay * 2, 0.5)

    async def _prepared(self) -> Wire:
        """A connection to a server that knows our scripts."""
        wire = await self.open(self.name)
        try:
            await asyncio.gather(*(wire.call("SCRIPT", "LOAD", text) for text in self._scripts.values()))
        except BaseException:
            wire.close()
            raise
        return wire

    async def open(
        self, name: str, on_push: Push | None = None, answer_within: float | None = ANSWER_WITHIN_S
    ) -> Wire:
        """A connection of one's own, for blocking commands or subscriptions."""
        return await connect(self.url, name, on_push, answer_within)


@asynccontextmanager
async def opened(url: str, name: str = "codexos") -> AsyncGenerator[Store]:
    store = Store(url, name)
    try:
        yield store
    finally:
        await store.close()
