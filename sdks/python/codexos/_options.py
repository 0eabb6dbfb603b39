"""What may be chosen for all calls of a client."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from codexos._version import __version__

TIMEOUT_S = 30.0
CONNECT_S = 5.0
RETRIES = 2
AGENT = f"codexos-python/{__version__} Python/{platform.python_version()}"


@dataclass(frozen=True, slots=True)
class Options:
    """timeout: seconds that the server may be silent. max_retries: tries after the first."""

    timeout: float = TIMEOUT_S
    max_retries: int = RETRIES
    headers: Mapping[str, str] = field(default_factory=dict)
