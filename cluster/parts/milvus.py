"""The embedded vector store: the compiled server of the wheel `milvus-lite`, started as its own process.

The wheel's Python wrapper would start the same binary, but as a child of whoever imports it.
"""

import asyncio
import importlib.metadata

from cluster.failure import Refused
from cluster.parts.contract import package_folder
from cluster.parts.daemon import Daemon
from cluster.ports import LOOPBACK


class Milvus(Daemon):
    name, role = "vectors", "milvus"
    load_s, stop_s = 60.0, 10.0

    async def start(self) -> str:
        library = package_folder("milvus_lite") / "lib"
        data = self.site.home.milvus / "milvus.db"
        address = f"{LOOPBACK}:{self.site.ports.milvus}"
        command = [str(library / "milvus"), str(data), address, "ERROR"]
        where = {"LD_LIBRARY_PATH": str(library), "GLOG_log_dir": str(self.site.home.logs)}
        if not await self.launch(command, **where):
            last = self.output().strip().rpartition("\n")[2] or "no output"
            raise Refused(
                f"the vector store did not start on {data} ({last})",
                f"see {self.log}; if the file is damaged, put a backup in its place",
            )
        release = ".".join(importlib.metadata.version("milvus-lite").split(".")[:2])
        return f"milvus lite {release}, {address}"

    async def answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, self.site.ports.milvus)
        except OSError:
            return False
        writer.close()
        return True
