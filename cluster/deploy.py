"""Puts the application on a running Ray head, then ends: `python -m cluster.deploy GCS_PORT`.

A process of its own, because the keeper stays light and a Ray driver is not. Each finished step is one
JSON object on a line of standard output.
"""

import json
import logging
import sys

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from actors import directory
from cluster.ports import LOOPBACK
from configs.settings import Settings
from serve_apps import gateway

APPLICATION = "codexos"
NAMESPACE = "codexos"


def main(gcs_port: int) -> None:
    settings = Settings()
    ray.init(
        f"{LOOPBACK}:{gcs_port}", namespace=NAMESPACE, logging_level=logging.WARNING, log_to_driver=False
    )
    say("cluster", _size())
    directory.start(settings.metering.actors, settings.webhooks.couriers)
    serve.start(
        http_options=HTTPOptions(host=settings.api.host, port=settings.port),
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    serve.run(gateway.build({}), name=APPLICATION, route_prefix="/")
    say("api", f"{settings.api.replicas} replicas behind haproxy")


def _size() -> str:
    total = ray.cluster_resources()
    release = ".".join(ray.__version__.split(".")[:2])
    return (
        f"ray {release}, {len(ray.nodes())} node, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
    )


def say(step: str, facts: str) -> None:
    print(json.dumps({"step": step, "facts": facts}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
