"""A vector store as the embedded platform has it, empty and by itself."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.installation import WORK
from cluster.parts.contract import package_folder

START_S = 30.0


@contextmanager
def empty_server() -> Iterator[str]:
    """Its address, while it runs."""
    library, port = package_folder("milvus_lite") / "lib", _free_port()
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK, prefix="milvus-") as place:
        child = subprocess.Popen(
            [library / "milvus", f"{place}/milvus.db", f"127.0.0.1:{port}", "ERROR"],
            env={"LD_LIBRARY_PATH": str(library), "GLOG_log_dir": place, "HOME": place},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            child.kill()
            child.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit("the vector store did not start") from None
            time.sleep(0.05)
