from pathlib import Path

import pytest

from kernel.clock import ManualClock
from kernel.errors import Unavailable
from kernel.storage.room import Room


def test_room_enough(tmp_path: Path) -> None:
    Room(tmp_path, 0, ManualClock()).check()


def test_a_nearly_full_disk_refuses_new_work(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        Room(tmp_path, 10**9, ManualClock()).check()
    assert refused.value.details == {"reason": "disk_full"}
    assert refused.value.retry_after == 5.0
