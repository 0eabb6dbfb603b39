"""The environment handed to everything the platform starts: our settings resolved, Ray's made explicit.

Ray reads its switches from the environment of every process, so a stray `RAY_ADDRESS` or auth token of
another cluster would lead ours astray: all of `RAY_*` is dropped and only what is written here goes on.
"""

import os

from cluster.layout import ROOT, Home
from cluster.ports import LOOPBACK, Ports
from configs.settings import Settings

DROPPED = ("RAY_", "BIN_PATH", "PYTHONHOME")
HAPROXY_THREADS = 4

RAY = {
    # Explicit in every process: without it `ray start` takes up any token it finds while clients use none.
    "RAY_AUTH_MODE": "token",
    # A cluster of one machine: Ray then keeps 127.0.0.1 instead of replacing it with the machine's address,
    # and its gRPC servers listen on loopback alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_START_HOOK": "cluster.ray_hook.trim",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # Each process keeps up to three files; Ray's own default is 3 GB for each.
    "RAY_ROTATION_MAX_BYTES": "20000000",
    "RAY_ROTATION_BACKUP_COUNT": "2",
    # Nobody reads these here, and each costs processor time while idle.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_timeline": "0",
    "RAY_enable_worker_prestart": "0",
    # Ray would put all of its processes, replicas included, behind whatever else runs; bulk work steps back by itself.
    "RAY_worker_niceness": "0",
    # A worker that has ended one window of an ingestion job is there for the next; it takes seconds to start.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
SERVE = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "3",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # Also the time a check may take: a busy replica must not pass for a dead one.
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "3",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "60",
    # Longer than the pings on open streams and the longest `?wait`.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "90",
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "90",
    # A header larger than the buffer is refused before there is a request, in HAProxy's own words.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
}


def child_environment(home: Home, settings: Settings, ports: Ports) -> dict[str, str]:
    """For Valkey, Milvus, Ray and all that Ray starts. Holds the store's password: never print it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    return {
        **inherited,
        **RAY,
        **SERVE,
        **_proxy(home, ports),
        **_codexos(home, settings, ports),
        "RAY_AUTH_TOKEN_PATH": str(home.ray_token),
        "PYTHONPATH": python_path(),
    }


def resolved(settings: Settings, home: Home, ports: Ports) -> Settings:
    """The same settings with the addresses of the embedded parts, for code in this process."""
    store = settings.store.model_copy(update={"url": store_url(home, ports)})
    return settings.model_copy(update={"home": home.path, "store": store})


def store_url(home: Home, ports: Ports) -> str:
    return f"redis://:{home.store_password.read_text().strip()}@{LOOPBACK}:{ports.valkey}/0"


def _codexos(home: Home, settings: Settings, ports: Ports) -> dict[str, str]:
    return {
        "CODEXOS_HOME": str(home.path),
        "CODEXOS_PORT": str(settings.port),
        "CODEXOS_STORE__URL": store_url(home, ports),
        "CODEXOS_VECTORS__URL": f"http://{LOOPBACK}:{ports.milvus}",
    }


def _proxy(home: Home, ports: Ports) -> dict[str, str]:
    folder = home.sockets
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(home.run / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "s"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "servers"),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(os.cpu_count() or 1, HAPROXY_THREADS)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.proxy_metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.proxy),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas + 99),
    }


def python_path() -> str:
    """Our packages first: `cluster`, `configs` and `actors` are also names of other distributions."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
