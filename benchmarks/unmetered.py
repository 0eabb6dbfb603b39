"""The platform's own application without limits, served at `/unmetered` by the Serve of a running installation.

`python -m benchmarks.unmetered GCS_PORT` deploys it with as many replicas and the same options as the platform.
"""

import logging
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from starlette.types import Receive, Scope, Send

from cluster.deploy import NAMESPACE
from cluster.ports import LOOPBACK
from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.metering.admission import Admission, Standing
from kernel.metering.limits import Limit
from kernel.storage.meter import Ask, Settled
from serve_apps.api import create_app
from serve_apps.gateway import OPTIONS

NAME = "unmetered"


class NoMeter:
    """Never asked."""

    lanes = 1

    async def settle(self, lane: int, asks: Sequence[Ask]) -> Sequence[Settled]:
        raise NotImplementedError


class Open(Admission):
    """Everyone, without a question and without a word in the headers."""

    async def admit(self, workspace_id: str, key_id: str, limit: Limit | None) -> Standing:
        return OPEN


OPEN = Standing(True, None)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncGenerator[Kernel]:
    async with Kernel.opened(settings, meter=NoMeter()) as kernel:
        yield replace(kernel, admission=Open(NoMeter()))


class Door:
    """The application as the platform serves it, but under a prefix."""

    def __init__(self) -> None:
        self._app = create_app(Settings(), opened)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(f"/{NAME}")
            scope = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        await self._app(scope, receive, send)


def main(gcs_port: int) -> None:
    ray.init(
        f"{LOOPBACK}:{gcs_port}", namespace=NAMESPACE, logging_level=logging.WARNING, log_to_driver=False
    )

    @serve.ingress(lambda: Door())
    class Unmetered:
        """Made in the replica."""

    options: dict[str, Any] = {**OPTIONS, "num_replicas": Settings().api.replicas}
    deployed = serve.deployment(name=NAME, **options)(Unmetered)
    serve.run(deployed.bind(), name=NAME, route_prefix=f"/{NAME}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
