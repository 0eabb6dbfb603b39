"""An object store that makes its objects when they are asked for: what of S3 a reader needs, and nothing kept.

It stands for a source of any size. It runs in a process of its own, whose memory is no part of what is measured.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from xml.sax.saxutils import escape

from aiohttp import web

from benchmarks.corpus import texts

KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}
"""For the environment of who reads it."""
FOLDER = 1_000
"""Objects of a folder."""
DIFFERENT = 500
"""Texts there are: each object is one of them, with its own name above."""
PAGE = 1_000
WRITTEN = "2026-01-01T00:00:00.000Z"
CHANGED = "2026-02-01T00:00:00.000Z"


class Bucket:
    """Objects `f0000/d0000000.md` and on. every: each so many-th one has changed; 0 for none."""

    def __init__(self, count: int):
        self.count, self.every = count, 0
        self._texts = list(texts(DIFFERENT))

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_put("/change/{every}", self.change)
        app.router.add_get("/{bucket}", self.list)
        app.router.add_get("/{bucket}/", self.list)
        app.router.add_get("/{bucket}/{key:.+}", self.object)
        return app

    async def change(self, request: web.Request) -> web.Response:
        self.every = int(request.match_info["every"])
        return web.Response()

    async def list(self, request: web.Request) -> web.Response:
        prefix, after = request.query.get("prefix", ""), request.query.get("continuation-token", "")
        if request.query.get("delimiter") and "/" not in prefix:
            folders = range(-(-self.count // FOLDER))
            found = "".join(f"<CommonPrefixes><Prefix>f{n:04}/</Prefix></CommonPrefixes>" for n in folders)
            return _xml(f"<IsTruncated>false</IsTruncated>{found}")
        start = int(after) if after else int(prefix[1:5]) * FOLDER
        end = min(self.count, int(prefix[1:5]) * FOLDER + FOLDER)
        numbers = [n for n in range(start, end) if _key(n).startswith(prefix)]
        found = "".join(self._listed(n) for n in islice(numbers, PAGE))
        more = len(numbers) > PAGE
        token = f"<NextContinuationToken>{numbers[PAGE]}</NextContinuationToken>" if more else ""
        return _xml(f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{found}")

    async def object(self, request: web.Request) -> web.Response:
        """Also of HEAD."""
        key = request.match_info["key"]
        if not key.endswith(".md"):
            return web.Response(status=404)
        text = self._text(int(key[-10:-3]))
        if request.http_range.start is None:
            return web.Response(body=text, content_type="text/markdown")
        start, stop, _ = request.http_range.indices(len(text))
        where = {"Content-Range": f"bytes {start}-{stop - 1}/{len(text)}"}
        return web.Response(body=text[start:stop], status=206, headers=where, content_type="text/markdown")

    def _listed(self, number: int) -> str:
        at, size = CHANGED if self._has_changed(number) else WRITTEN, len(self._text(number))
        told = f"<Key>{escape(_key(number))}</Key><LastModified>{at}</LastModified><Size>{size}</Size>"
        return f"<Contents>{told}<StorageClass>STANDARD</StorageClass></Contents>"

    def _text(self, number: int) -> bytes:
        changed = " (changed)" if self._has_changed(number) else ""
        return f"# Object {number}{changed}\n\n{self._texts[number % DIFFERENT]}".encode()

    def _has_changed(self, number: int) -> bool:
        return self.every > 0 and number % self.every == 0


def _key(number: int) -> str:
    return f"f{number // FOLDER:04}/d{number:07}.md"


def _xml(body: str) -> web.Response:
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    text = f'<?xml version="1.0"?><ListBucketResult xmlns="{space}">{body}</ListBucketResult>'
    return web.Response(text=text, content_type="application/xml")


@contextmanager
def serving(count: int, port: int) -> Iterator[str]:
    """Its address, while it stands."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bucket", str(count), str(port)], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(10)


if __name__ == "__main__":
    bucket = Bucket(int(sys.argv[1]))
    web.run_app(bucket.app(), host="127.0.0.1", port=int(sys.argv[2]), access_log=None)
