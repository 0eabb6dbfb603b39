"""What the keeper needs of a part, and what it tells a part."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster.failure import Refused
from cluster.layout import Home
from cluster.ports import Ports
from cluster.state import PartRecord
from configs.settings import Settings


@dataclass(frozen=True, slots=True)
class Site:
    """One installation, as its parts see it. environment: of every process they start."""

    home: Home
    settings: Settings
    ports: Ports
    environment: Mapping[str, str]


class Part(Protocol):
    """A thing that runs beside us. `start` returns what `up` prints, and raises Refused when it cannot."""

    name: str

    async def start(self) -> str: ...

    async def adopt(self, record: PartRecord) -> bool:
        """Take over what an earlier keeper left running; False after clearing away what is not usable."""
        ...

    async def died(self) -> None:
        """Returns when the part has to be started again."""
        ...

    async def stop(self) -> None: ...

    def record(self) -> PartRecord: ...


def package_folder(name: str) -> Path:
    """Where a wheel was unpacked, without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise Refused(f"the package {name} is not installed", "run `make up`, which installs the lock file")
    return Path(found.origin).parent
