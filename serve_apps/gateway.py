"""The Serve application: replicas that each serve the whole API."""

from functools import partial
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.types import Receive, Scope, Send

from actors.directory import RemoteMeter
from configs.settings import Settings
from kernel.assembly import Kernel
from serve_apps.api import create_app

OPTIONS: dict[str, Any] = {
    "max_ongoing_requests": 2_000,
    "graceful_shutdown_wait_loop_s": 0.5,
    "graceful_shutdown_timeout_s": 10,
    "health_check_period_s": 5,
    "health_check_timeout_s": 5,
    "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    "ray_actor_options": {"num_cpus": 0.1},
}


class Door:
    """The application as a bare ASGI callable: from one with routes Serve would match each request a second time."""

    def __init__(self, settings: Settings):
        meter = RemoteMeter(settings.metering.actors)
        self._app = create_app(settings, partial(Kernel.opened, meter=meter))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def build(args: dict[str, Any]) -> Application:
    """`args` are settings that differ from the environment's, by field."""
    settings = Settings(**args)

    @serve.ingress(lambda: Door(Settings(**args)))
    class Gateway:
        """Made in the replica, which runs the application's lifespan in the loop that serves requests."""

        async def check_health(self) -> None:
            """A replica is well while its loop turns; a store that is away is told by 503."""

    deployment = serve.deployment(name="api", num_replicas=settings.api.replicas, **OPTIONS)(Gateway)
    application: Application = deployment.bind()
    return application
