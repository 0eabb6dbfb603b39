"""Bulk ingestion on one node and on two, which are raylets of one machine, each with one processor.

Embedding waits instead of working (`slow/`), so that two nodes are not simply half of the same machine each.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import corpus
from benchmarks.beside import running
from benchmarks.footprint import stop
from benchmarks.ingestion import rag_of, written
from benchmarks.installation import REPOSITORY, WORK, Installation
from benchmarks.results import Figure
from cluster.environment import child_environment
from configs.settings import Settings

SLOW_MS = 6
"""For each text: far more than it takes to embed it."""
SETTINGS = {
    "PYTHONPATH": str(Path(__file__).parent / "slow"),
    "SLOW_MS": str(SLOW_MS),
    "CODEXOS_CLUSTER__NUM_CPUS": "1",
}
STORE_BYTES = 100_000_000
WARM_UP = 500
"""Files, for which a new node starts its worker."""


def more_nodes(installation: Installation, files: int) -> Iterator[Figure]:
    """Each measured when its workers are warm."""
    folder, few = (corpus.folder(WORK / f"files-{count}", count) for count in (files, WARM_UP))
    with installation.running(), rag_of(installation) as rag:
        written(rag, few)
        one = written(rag, folder)
        with second_node(installation):
            written(rag, few)
            two = written(rag, folder)
    yield Figure("1 node", "chunks_s", one.rate)
    yield Figure("2 nodes", "chunks_s", two.rate)
    yield Figure("2 nodes/1 node", "ratio", two.rate / one.rate)


@contextmanager
def second_node(installation: Installation) -> Iterator[None]:
    """Another raylet, in a session of its own."""
    home, state = running(installation)
    settings = Settings(port=installation.port)
    environment = os.environ | child_environment(home, settings, state.ports) | SETTINGS
    environment["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), SETTINGS["PYTHONPATH"]))
    with tempfile.TemporaryDirectory(prefix="node-") as place:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *("--address", f"127.0.0.1:{state.ports.gcs}", "--node-ip-address", "127.0.0.1"),
            *("--num-cpus", "1", "--object-store-memory", str(STORE_BYTES), "--temp-dir", place),
            *("--min-worker-port", "0", "--max-worker-port", "0", "--disable-usage-stats"),
        ]
        child = subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            time.sleep(15)
            if child.poll() is not None:
                raise SystemExit("the second node did not start")
            yield
        finally:
            stop([child.pid])
            child.wait()
