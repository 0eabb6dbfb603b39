"""Where an installation keeps what: the folder `CODEXOS_HOME`, and a short one for sockets.

    valkey/ milvus/ objects/   data
    logs/                      one file for each part; `logs/ray` are Ray's own
    run/                       state.json, progress.jsonl, keeper.lock, haproxy.pid, configurations made anew
    secrets/                   ray-token, store-password (mode 600, the folder 700)
    connection.json            base_url, api_key, dashboard_url (mode 600)

Unix socket paths end at 107 characters, so Ray's and HAProxy's live in a folder under /tmp whose name is
derived from the home: two homes never share one, and every command finds it whatever its TMPDIR.
"""

import hashlib
import json
import os
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cluster.failure import Refused

ROOT = Path(__file__).parent.parent
SOCKETS = Path("/tmp")
FOLDERS = ("valkey", "milvus", "objects", "logs", "run", "secrets")


class Connection(BaseModel):
    """What a client needs; `api_key` is None when only its hash is left."""

    model_config = ConfigDict(frozen=True)

    base_url: str
    api_key: str | None
    dashboard_url: str


@dataclass(frozen=True, slots=True)
class Home:
    path: Path

    @property
    def sockets(self) -> Path:
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:8]
        return SOCKETS / f"codexos-{name}"

    @property
    def valkey(self) -> Path:
        return self.path / "valkey"

    @property
    def milvus(self) -> Path:
        return self.path / "milvus"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def ray_token(self) -> Path:
        return self.path / "secrets" / "ray-token"

    @property
    def store_password(self) -> Path:
        return self.path / "secrets" / "store-password"

    @property
    def connection(self) -> Path:
        return self.path / "connection.json"

    def prepare(self) -> None:
        """Make folders and secrets that are missing. Raises Refused when the home cannot hold them."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in FOLDERS:
                (self.path / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Refused(
                f"{self.path} cannot be written: {error.strerror}",
                "give this user the folder, or point CODEXOS_HOME at one it owns",
            ) from error
        for secret in (self.ray_token, self.store_password):
            if not secret.exists():
                write_private(secret, secrets.token_hex(32))
        self._prepare_sockets()

    def _prepare_sockets(self) -> None:
        folder = self.sockets
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
            raise Refused(f"{folder} belongs to somebody else", "remove it")
        folder.chmod(0o700)

    def clear_sockets(self) -> None:
        """Once nothing of this home runs."""
        shutil.rmtree(self.sockets, ignore_errors=True)

    def read_connection(self) -> Connection | None:
        if not self.connection.exists():
            return None
        return Connection.model_validate_json(self.connection.read_bytes())

    def write_connection(self, connection: Connection) -> None:
        write_private(self.connection, json.dumps(connection.model_dump(), indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step with a file that only its owner reads."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
