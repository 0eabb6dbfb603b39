"""A FastAPI route that does nothing, served at `/noop` by the Serve of a running installation.

`python -m benchmarks.noop GCS_PORT` deploys it with as many replicas and the same options as the platform, in
a process of its own, as `cluster.deploy` does it for the platform.
"""

import logging
import sys

import ray
from fastapi import FastAPI
from ray import serve

from cluster.deploy import NAMESPACE
from cluster.ports import LOOPBACK
from configs.settings import Settings
from serve_apps.gateway import OPTIONS

NAME = "noop"


def make() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def nothing() -> dict[str, str]:
        return {"status": "ok"}

    return app


class Noop:
    """Only a route."""


def main(gcs_port: int) -> None:
    ray.init(
        f"{LOOPBACK}:{gcs_port}", namespace=NAMESPACE, logging_level=logging.WARNING, log_to_driver=False
    )
    deployed = serve.deployment(name=NAME, num_replicas=Settings().api.replicas, **OPTIONS)
    serve.run(deployed(serve.ingress(make)(Noop)).bind(), name=NAME, route_prefix=f"/{NAME}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
