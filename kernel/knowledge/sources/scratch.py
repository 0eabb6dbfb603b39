"""Folders for the length of a source, in the machine's place for temporary files.

Whoever makes one holds a lock on it. The kernel lets go of the lock when its holder ends, however that comes about, so
that what a killed process has left is told from what is in use, by other containers and installations too.
"""

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

PREFIX = "codexos-git-"
FRESH_S = 60.0
"""A folder of this age may not have been locked yet."""


def made_for(owner: object) -> Path:
    """A folder that goes when its owner does. Raises OSError."""
    folder = tempfile.mkdtemp(prefix=PREFIX)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    weakref.finalize(owner, _drop, folder, lock)
    return Path(folder)


def sweep() -> None:
    """Deletes what killed processes have left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is in use, another's, or gone meanwhile
            if time.time() - folder.stat().st_mtime > FRESH_S:
                _delete(folder)


def _delete(folder: Path) -> None:
    """Raises OSError for one that is in use."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _drop(folder: str, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
