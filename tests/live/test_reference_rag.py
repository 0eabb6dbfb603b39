"""The examples of the API reference on collections, as printed, on a platform whose outside world is on this machine.

A site stands for `docs.example.com`: its address is the one thing that is put in another's place. Everything else is
said by the settings that operators have: where the repositories of `github.com` are (`git_hosts`), where S3 is
(`s3_endpoint`) and with whose keys, and in `configs/models.yaml` where OpenAI is.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from tests.documents import pdf
from tests.platform import ROOT, Platform
from tests.unit.test_sources_github import Repo

CREATE = """{
  "name": "my-docs",
  "description": "Product documentation",
  "embedding_model": "text-embedding-ada-002",
  "chunk_size": 1000,
  "chunk_overlap": 200
}"""
INGEST = """{
  "sources": [
    {
      "type": "url",
      "location": "https://docs.example.com"
    },
    {
      "type": "github",
      "location": "https://github.com/org/repo",
      "branch": "main",
      "paths": ["docs/"]
    },
    {
      "type": "file",
      "location": "s3://bucket/file.pdf"
    }
  ]
}"""
SEARCH = """{
  "query": "How do I authenticate users?",
  "top_k": 5,
  "filters": {
    "source_type": "documentation"
  }
}"""
PAGE = b"<title>Docs</title><p>You authenticate users with an API key. Send it as a bearer token.</p>"
WIDTH = 1536


class Outside(BaseHTTPRequestHandler):
    """The site, OpenAI's embeddings (a number for each word), and git's own server program."""

    root: Path
    asked: list[tuple[str, Any]]

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        if self.path.startswith("/org/"):
            return self._git(b"")
        self.asked.append((self.path, None))
        return self._answer(PAGE, "text/html")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != "/v1/embeddings":
            return self._git(body)
        order = json.loads(body)
        self.asked.append((self.path, order | {"key": self.headers["authorization"]}))
        data = [
            {"index": number, "embedding": base64.b64encode(vector(text)).decode()}
            for number, text in enumerate(order["input"])
        ]
        told = {"data": data, "model": order["model"], "usage": {"prompt_tokens": 7, "total_tokens": 7}}
        return self._answer(json.dumps(told).encode(), "application/json")

    def _answer(self, body: bytes, media_type: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _git(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        said = {
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "PATH": os.environ["PATH"],
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=said, capture_output=True, check=True)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.get("Status", "200").split(" ")[0])
        self._answer(answer, headers["Content-Type"], status)


def vector(text: str) -> bytes:
    """float32, one more for each word at a place of its own."""
    from numpy import float32, zeros

    numbers = zeros(WIDTH, float32)
    for word in re.findall(r"[a-z]+", text.lower()):
        numbers[int(hashlib.sha256(word.encode()).hexdigest(), 16) % WIDTH] += 1
    return (numbers / max(float((numbers**2).sum()) ** 0.5, 1.0)).astype(float32).tobytes()


@contextmanager
def outside(root: Path) -> Generator[str]:
    Outside.root, Outside.asked = root, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Outside)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def bucket() -> Generator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    place = {"scheme": "http", "endpoint_override": f"{host}:{port}", "region": "us-east-1"}
    files = fs.S3FileSystem(access_key="key", secret_key="secret", allow_bucket_creation=True, **place)
    files.create_dir("bucket")
    with files.open_output_stream("bucket/file.pdf") as out:
        out.write(pdf("Passwords of users are never stored"))
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Platform, str]]:
    """A platform of its own, for its settings and for its models.yaml, and the address of the site."""
    folder = tmp_path_factory.mktemp("reference")
    repo = Repo(folder)
    repo.commit({"docs/users.md": b"# Users\n\nUsers sign in by name.", "README.md": b"not asked for"})
    with outside(folder / "served") as site, bucket() as store:
        platform = Platform(
            folder / "home",
            installed(folder / "product", site),
            CODEXOS_API__REPLICAS="1",
            CODEXOS_CREDENTIALS='{"openai": "sk-local"}',
            CODEXOS_INGESTION__GIT_HOSTS=json.dumps({"github.com": site}),
            CODEXOS_INGESTION__S3_ENDPOINT=store,
            CODEXOS_INGESTION__S3_ENVIRONMENT="true",
            AWS_ACCESS_KEY_ID="key",
            AWS_SECRET_ACCESS_KEY="secret",
        )
        platform.up()
        try:
            yield platform, site
        finally:
            platform.down()


def installed(folder: Path, openai: str) -> Path:
    """The product once more, with another address for OpenAI."""
    for name in ("actors", "cluster", "configs", "kernel", "serve_apps"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    models = folder / "configs/models.yaml"
    models.write_text(models.read_text().replace("https://api.openai.com/v1", f"{openai}/v1"))
    return folder


def curl(platform: Platform, method: str, path: str, body: str | None = None) -> Any:
    """As the reference's readers send it."""
    words = ["curl", "--silent", "--show-error", "--max-time", "90", "-w", "\n%{http_code}", "-X", method]
    words += ["-H", f"Authorization: Bearer {platform.connection['api_key']}"]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "--data", body]
    words.append(f"http://127.0.0.1:{platform.port}/v1{path}")
    said = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    answer, _, status = said.rpartition("\n")
    assert status.startswith("2"), answer
    return json.loads(answer)


def ingested(platform: Platform, collection_id: str, body: str) -> dict[str, Any]:
    """The job, once it has ended: the stream of its events ends with it."""
    job_id = curl(platform, "POST", f"/rag/collections/{collection_id}/ingest", body)["job_id"]
    address = f"{platform.connection['base_url']}/rag/jobs/{job_id}/events"
    key = f"Authorization: Bearer {platform.connection['api_key']}"
    subprocess.run(["curl", "-sN", "--max-time", "90", "-H", key, address], check=True, capture_output=True)
    job: dict[str, Any] = curl(platform, "GET", f"/rag/jobs/{job_id}")
    return job


def test_create_ingest_search(world: tuple[Platform, str]) -> None:
    platform, site = world
    made = curl(platform, "POST", "/rag/collections", CREATE)
    assert made.items() >= json.loads(CREATE).items()
    (shown,) = curl(platform, "GET", "/rag/collections")["collections"]
    assert shown["id"] == made["id"]

    order = INGEST.replace("https://docs.example.com", site)
    job = ingested(platform, made["id"], order)
    assert (job["status"], job["progress"]["done"], job["errors"]) == ("completed", 3, [])
    search = f"/rag/collections/{made['id']}/search"
    assert curl(platform, "POST", search, SEARCH)["results"] == [], "no source said that it is documentation"
    unfiltered = json.dumps({name: value for name, value in json.loads(SEARCH).items() if name != "filters"})
    found = curl(platform, "POST", search, unfiltered)["results"]
    assert {(one["metadata"]["source_type"], one["metadata"]["location"]) for one in found} == {
        ("url", f"{site}/"),
        ("github", "https://github.com/org/repo/blob/main/docs/users.md"),
        ("file", "s3://bucket/file.pdf"),
    }
    assert found[0]["metadata"]["location"] == f"{site}/"
    assert "authenticate users with an API key" in found[0]["text"]

    named = json.loads(order)
    named["sources"][0]["source_type"] = "documentation"
    again = ingested(platform, made["id"], json.dumps(named))["progress"]
    assert (again["done"], again["skipped"]) == (1, 2)
    (one,) = curl(platform, "POST", search, SEARCH)["results"]
    assert one["metadata"]["location"] == f"{site}/"
    asked = [order for path, order in Outside.asked if path == "/v1/embeddings"]
    assert {order["model"] for order in asked} == {"text-embedding-ada-002"}
    assert {order["key"] for order in asked} == {"Bearer sk-local"}
