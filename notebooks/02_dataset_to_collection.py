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
# # From a dataset to a collection
#
# `collection.write` takes a Ray Dataset, a pandas DataFrame or a pyarrow Table. A Ray Dataset is written by
# the workers that hold its blocks, so no row passes through the driver, and the size of the dataset does not
# matter.
#
# You need a platform that runs (`make up`), and `pip install "codexos[pandas,ray]"`. The workers need
# `codexos` too, and are handed the key of this client: use one that is limited to the collection.
# `RAY_ADDRESS` names a cluster of yours; by default Ray runs in this machine for as long as the notebook
# does.

# %%
import os
from importlib import metadata

import pandas as pd
import pyarrow as pa
import ray

from codexos import Client

os.environ.setdefault("CODEXOS_HOME", "../.codexos")
NAME = os.environ.get("NOTEBOOK_COLLECTION", "packages")

client = Client()
collection = client.rag.collections.named(NAME) or client.rag.collections.create(name=NAME)

# %% [markdown]
# ## The data
#
# What is at hand everywhere: the descriptions of the Python packages that are installed. A document needs
# `id` and `text`; it may have `title` and `metadata`, by which searches can filter.

# %%
packages = pd.DataFrame(
    [
        {"name": one.metadata["Name"], "release": one.version, "readme": one.metadata.get_payload() or ""}
        for one in metadata.distributions()
    ]
).drop_duplicates("name")
packages["readme"].str.len().describe().round()

# %%
ray.init(address=os.environ.get("RAY_ADDRESS", "local"), log_to_driver=False, logging_level="error")
ray.data.DataContext.get_current().enable_progress_bars = False


def as_documents(batch: pd.DataFrame) -> pd.DataFrame:
    """Any transformation of Ray Data goes here: it runs beside the writing, block by block."""
    batch = batch[batch["readme"].str.strip().astype(bool)]
    return pd.DataFrame(
        {
            "id": "package/" + batch["name"],
            "title": batch["name"],
            "text": batch["readme"],
            "metadata": [{"release": release, "kind": "readme"} for release in batch["release"]],
        }
    )


dataset = ray.data.from_pandas(packages).repartition(4).map_batches(as_documents, batch_format="pandas")

# %% [markdown]
# ## Writing it
#
# The rows go in batches, each of which is a job of its own; what comes back stands for all of them.

# %%
job = collection.write(dataset)
job.wait(progress=lambda job: print(f"\r{job.progress.settled} of {job.progress.discovered}", end=""))
job

# %%
found = collection.search("validate data with type hints", top_k=5, filters={"kind": "readme"})
found.to_pandas()[["score", "title", "release", "text"]]

# %% [markdown]
# ## Writing it again
#
# A document is known by its `id`: what has not changed is skipped, what has changed is replaced, and a search
# never sees both. Here the same rows come as a pyarrow Table, one of them with other text.

# %%
table = pa.Table.from_pandas(as_documents(packages), preserve_index=False)
changed = table.to_pylist()
changed[0]["text"] = "This text is new: it is about zebras."
job = collection.write(pa.Table.from_pylist(changed)).wait()
pd.Series(job.progress.raw, name="documents").to_frame()

# %%
collection.search("zebras", top_k=1, mode="keyword").to_pandas()[["title", "text"]]

# %%
assert job.progress.done == 1, "only one document is new"
ray.shutdown()
