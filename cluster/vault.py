"""`vault status`, `vault rotate`, `vault prune`: the key-encryption keys and what is sealed under each."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cluster import printing
from cluster.environment import resolved
from cluster.failure import Refused
from cluster.layout import Home
from cluster.state import State
from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.errors import CodexError
from kernel.vault.custody import FileKeys, Ring
from kernel.vault.rotation import Progress, Rotation

T = TypeVar("T")
HEAD = ("key", "values", "")


def status(home: Home, settings: Settings, state: State) -> None:
    counts, current = _asked(home, settings, state, _counted)
    names = [current, *sorted(set(counts) - {current})]
    rows = [(name or "(damaged)", f"{counts[name]:,}", "current" * (name == current)) for name in names]
    printing.table([HEAD, *rows])


def rotate(home: Home, settings: Settings, state: State) -> bool:
    """A new key where the installation keeps them itself; then everything under the current one.

    False when there are values that no key opens.
    """
    keys = _file(home, settings)
    if keys is not None:
        with _refusing():
            ring = keys.change(Ring.with_new)
        printing.step("new key", f"{ring.current}, in {keys.path}")
    done = _asked(home, settings, state, lambda rotation: rotation.run(_tell))
    mark = printing.FAILED if done.damaged else printing.DONE
    printing.step("values", f"{done.total - done.damaged:,} under the current key", mark=mark)
    if done.damaged:
        printing.step("damaged", f"{done.damaged:,} values open under no key", mark=printing.FAILED)
    if keys is not None:
        printing.line("  Back up the file. Older keys stay in it until: python -m cluster vault prune")
    return done.damaged == 0


def prune(home: Home, settings: Settings, state: State) -> None:
    """Forgets old keys that nothing is under. Raises Refused where the keys are kept elsewhere."""
    keys = _file(home, settings)
    if keys is None:
        raise Refused(
            "the keys are not kept in a file of this installation", "remove old ones where they are"
        )
    with _refusing():
        before = keys.ring()
    counts, current = _asked(home, settings, state, _counted)
    unused = {name for name in before.keys if name != current and not counts[name]}
    with _refusing():
        kept = len(keys.change(lambda ring: ring.without(unused - {ring.current})).keys)
    printing.step("keys", f"{len(unused)} forgotten, {kept} {'is' if kept == 1 else 'are'} left")


async def _counted(rotation: Rotation) -> tuple[Counter[str], str]:
    return await rotation.counts(), await rotation.envelope.custody.current()


def _tell(done: Progress) -> None:
    if done.looked % 1024 == 0 and done.looked:
        printing.step("rotating", f"{done.looked:,} of {done.total:,}", mark=printing.PLAY)


def _file(home: Home, settings: Settings) -> FileKeys | None:
    """None where the keys are the environment's or a KMS's."""
    own = not (settings.vault.kek or settings.vault.kms_url)
    return FileKeys(home.path / "secrets" / "kek.json") if own else None


@contextmanager
def _refusing(advice: str = "see the backup of the installation's secrets") -> Iterator[None]:
    try:
        yield
    except CodexError as error:
        raise Refused(error.message, advice) from error


def _asked(home: Home, settings: Settings, state: State, question: Callable[[Rotation], Awaitable[T]]) -> T:
    async def asked() -> T:
        async with Kernel.opened(resolved(settings, home, state.ports), name="vault") as kernel:
            return await question(kernel.rotation())

    with _refusing("see `make status` and the logs"):
        return asyncio.run(asked())
