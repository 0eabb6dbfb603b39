"""Called by `ray start` (RAY_START_HOOK) with its parameters: leaves out the Ray Client server.

It has no switch of its own, listens on the machine's address and costs 70 MB; nothing here uses it.
"""

from typing import Any


def trim(parameters: Any, head: bool) -> None:
    if head:
        parameters.ray_client_server_port = None
