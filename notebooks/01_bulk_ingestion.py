# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bulk ingestion
#
# A folder of files, and a prefix of S3, go into a collection. Then: how fast it went, and what could not be
# read.
#
# You need a platform that runs (`make up`), and `pip install "codexos[pandas]" matplotlib`. Each setting of
# the next cell may come from the environment. The platform reads S3 by itself: no file of it passes through
# this notebook.

# %%
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from codexos import Client

os.environ.setdefault("CODEXOS_HOME", "../.codexos")
FOLDER = Path(os.environ.get("NOTEBOOK_FOLDER", "../kernel"))
# Such as s3://bucket/handbook/. It is read with the AWS keys of the platform's machine, which its operator opens to all
# workspaces with CODEXOS_INGESTION__S3_ENVIRONMENT=true; else add the `credential_id` of one in the vault below.
S3_PREFIX = os.environ.get("NOTEBOOK_S3_PREFIX", "")
NAME = os.environ.get("NOTEBOOK_COLLECTION", "bulk-ingestion")
TEXT = {".md", ".txt", ".rst", ".py", ".lua", ".yaml", ".toml", ".js", ".ts", ".go", ".rb"}

client = Client()
collection = client.rag.collections.named(NAME) or client.rag.collections.create(name=NAME)
collection.info

# %% [markdown]
# ## What there is
#
# Plain text is sent in batches of documents, thousands in a request. What has to be parsed (PDF, Word, HTML
# …) is uploaded file by file and taken in by one job.

# %%
files = pd.DataFrame(
    [
        {"path": path, "kind": path.suffix or "none", "bytes": path.stat().st_size}
        for path in sorted(FOLDER.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
)
files = files[files["bytes"] > 0]
files.groupby("kind")["bytes"].agg(["count", "sum"]).sort_values("sum", ascending=False)

# %%
texts = files[files["kind"].isin(TEXT)]
others = files[~files["kind"].isin(TEXT)]


def documents():
    """The text files, one by one: they are read when their batch is sent."""
    for path in texts["path"]:
        text = path.read_text(errors="replace")
        if text.strip():
            yield {
                "id": path.relative_to(FOLDER).as_posix(),
                "text": text,
                "title": path.name,
                "metadata": {"kind": path.suffix},
            }


# %% [markdown]
# ## Taking it in
#
# Each order is a job that goes on whether anyone watches it or not. Run this again: what has not changed is
# skipped.

# %%
timeline = []


class Bar:
    """Shows how far a job is, and keeps it for the plot."""

    def __init__(self, name):
        self.name, self.began = name, time.monotonic()
        self.note(0)

    def note(self, settled):
        timeline.append({"job": self.name, "seconds": time.monotonic() - self.began, "documents": settled})

    def __call__(self, job):
        settled, found = job.progress.settled, max(job.progress.discovered, 1)
        self.note(settled)
        line = "#" * (40 * settled // found)
        print(f"\r{self.name:8} [{line:<40}] {settled}/{found}, {job.progress.failed} failed", end="")


# %%
jobs = {}
uploads = {}

if len(texts):
    jobs["texts"] = collection.write(documents())
if len(others):
    uploads = {
        collection.upload_file(path).id: path.relative_to(FOLDER).as_posix() for path in others["path"]
    }
    jobs["uploads"] = collection.ingest(
        [{"type": "file", "location": upload, "name": name} for upload, name in uploads.items()]
    )
if S3_PREFIX:
    jobs["s3"] = collection.ingest([{"type": "file", "location": S3_PREFIX, "source_type": "s3"}])

for name, job in jobs.items():
    job.wait(progress=Bar(name))
    print()

pd.DataFrame([{"job": name, "status": job.status, **job.progress.raw} for name, job in jobs.items()])

# %% [markdown]
# ## How fast

# %%
seen = pd.DataFrame(timeline, columns=["job", "seconds", "documents"])
figure, (total, rate) = plt.subplots(1, 2, figsize=(11, 3.5))
for name, part in seen.groupby("job"):
    total.plot(part["seconds"], part["documents"], marker=".", label=name)
    steps = part[["seconds", "documents"]].diff()
    rate.step(
        part["seconds"], steps["documents"] / steps["seconds"].clip(lower=0.001), where="pre", label=name
    )
total.set(title="Documents taken in", xlabel="seconds", ylabel="documents")
rate.set(title="Throughput", xlabel="seconds", ylabel="documents a second")
total.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# ## What could not be read
#
# One bad file fails alone. `job.retry()` tries only those again.

# %%
failed = [
    {"job": name, "file": document.location, "reason": document.reason}
    for name, job in jobs.items()
    for document in job.documents(status="failed")
]
pd.DataFrame(failed, columns=["job", "file", "reason"])

# %% [markdown]
# ## A first search

# %%
collection.search("How are requests limited?", top_k=5).to_pandas()[["score", "location", "text"]]

# %%
stats = collection.stats()
print(f"{stats.documents} documents, {stats.chunks} chunks, {stats.bytes / 1e6:.1f} MB")
