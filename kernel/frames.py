"""Frames on the line to a child process: four bytes of length, then the message."""

from typing import IO


def receive(stream: IO[bytes]) -> bytes | None:
    """None when the other side has ended."""
    size = stream.read(4)
    return stream.read(int.from_bytes(size, "big")) if len(size) == 4 else None


def send(stream: IO[bytes], frame: bytes) -> None:
    stream.write(len(frame).to_bytes(4, "big") + frame)
    stream.flush()
