"""A parser's child process that fails in ways no document can ask for: what a PDF's text says, it does."""

import os
import sys
import time

from kernel.knowledge.contract import Part
from kernel.knowledge.kinds import Kind
from kernel.knowledge.parser_worker import main


def obey(kind: Kind, data: bytes, charset: str) -> list[Part]:
    command = data.rpartition(b"\n")[2]
    if command == b"hang":
        time.sleep(60)
    elif command == b"spin":
        while True:
            pass
    elif command == b"crash":
        os.abort()
    elif command == b"eat":
        return [Part("x" * 2**40)]
    elif command == b"leave":
        sys.exit()
    elif command == b"garbage":
        os.write(0, b"\x00\x00\x00\x08not JSON")
    elif command == b"flood":
        os.write(0, b"\xff\xff\xff\xff" + b"x" * 1000)
    elif command == b"write":
        with open("/tmp/broken_parser", "wb") as file:
            file.write(b"x")
    return [Part(f"{os.getpid()} {' '.join(sorted(os.environ))}")]


if __name__ == "__main__":
    main(obey)
