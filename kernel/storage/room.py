"""Room on the disk that the embedded store writes to: new work is refused while some is left to end the old."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from kernel.clock import Clock
from kernel.errors import Unavailable

LOOK_EVERY_MS = 500


@dataclass(slots=True)
class Room:
    folder: Path
    min_free_mb: int
    clock: Clock
    _looked: int = field(default=0)

    def check(self) -> None:
        """Raises Unavailable when less than the watermark is free."""
        now = self.clock.now_ms()
        if now - self._looked < LOOK_EVERY_MS:
            return
        disk = os.statvfs(self.folder)
        if disk.f_bavail * disk.f_frsize < self.min_free_mb * 1_000_000:
            raise Unavailable(
                f"Less than {self.min_free_mb} MB of disk are free: make room, running executions go on",
                {"reason": "disk_full"},
                5.0,
            )
        self._looked = now
