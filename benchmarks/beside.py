"""Applications that a benchmark puts beside the platform's own, in the Serve of a running installation."""

import subprocess
import sys

from benchmarks.installation import REPOSITORY, Installation
from cluster.environment import child_environment
from cluster.layout import Home
from cluster.state import State, read_state
from configs.settings import Settings


def running(installation: Installation) -> tuple[Home, State]:
    """Its home and what the keeper wrote down. Ends the benchmark when nothing runs there."""
    home = Home(installation.home.resolve())
    state = read_state(home)
    if state is None:
        raise SystemExit(f"nothing runs in {home.path}")
    return home, state


def deploy(installation: Installation, module: str) -> None:
    """Runs a program that takes the port of the GCS and deploys an application, then ends."""
    home, state = running(installation)
    environment = child_environment(home, Settings(port=installation.port), state.ports)
    command = [sys.executable, "-m", module, str(state.ports.gcs)]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, timeout=120)
