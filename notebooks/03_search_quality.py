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
# # How good is search?
#
# Recall, reciprocal rank and nDCG of the three modes, on questions whose answers are known.
#
# You need a platform that runs (`make up`), and `pip install "codexos[pandas]" matplotlib numpy pyarrow`.
#
# ## Method
#
# **Documents** are the docs of installed packages, of two kinds: descriptions of packages (their README), and
# docstrings of the public functions of numpy, pandas and pyarrow.compute.
#
# **Questions** are sentences that the authors wrote about the same thing, and that are taken out of the
# documents: the one-line summary of a package, the first paragraph of a docstring. Each question has one
# right document, the one it was taken from. Other documents may fit as well and count as wrong, so the
# figures are a lower bound. They serve to compare modes, models and chunk sizes on the same questions, not
# one collection with another. Documents with the same text count once. Of all questions a sample is drawn,
# always the same one, and as many of each kind.
#
# **Search** gives chunks; a document stands where its first chunk stands. With `r` the place of the right
# document among the first ten (infinite when it is not there):
#
# | | |
# |---|---|
# | recall@k | share of questions with `r ≤ k` |
# | MRR@10 | mean of `1 / r` |
# | nDCG@10 | mean of `1 / log2(1 + r)`: the ideal is 1, for there is one right document |
#
# The bars show the 95 % interval of the mean, by the bootstrap over questions.
#
# The platform's own weights were chosen with other questions, half of which were held out: `python -m benchmarks.run
# quality`, described in `benchmarks/README.md`.

# %%
import inspect
import os
from importlib import metadata

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow.compute

from codexos import Client

os.environ.setdefault("CODEXOS_HOME", "../.codexos")
NAME = os.environ.get("NOTEBOOK_COLLECTION", "search-quality")
QUESTIONS = int(os.environ.get("NOTEBOOK_QUESTIONS", "400"))
MODES = ["hybrid", "dense", "keyword"]
DEEPEST = 10

client = Client()
collection = client.rag.collections.named(NAME) or client.rag.collections.create(name=NAME)

# %% [markdown]
# ## The labelled set


# %%
def packages():
    for one in metadata.distributions():
        summary, text = one.metadata["Summary"], one.metadata.get_payload() or ""
        if summary and len(summary.split()) >= 4:
            yield "package", one.metadata["Name"], summary, text.replace(summary, " ")


def functions(module):
    for name in dir(module):
        thing = getattr(module, name)
        if name.startswith("_") or not callable(thing):
            continue
        doc = inspect.getdoc(thing) or ""
        if doc.startswith(f"{name}("):  # numpy writes the signature first
            doc = doc.partition("\n\n")[2]
        summary, _, text = doc.partition("\n\n")
        if len(summary.split()) >= 4:
            yield (
                "function",
                f"{module.__name__}.{name}",
                " ".join(summary.split()),
                text.replace(summary, " "),
            )


rows = [*packages(), *functions(np), *functions(pd), *functions(pd.DataFrame), *functions(pyarrow.compute)]
corpus = pd.DataFrame(rows, columns=["kind", "name", "question", "text"])
corpus = corpus[corpus["text"].str.len() >= 200].drop_duplicates("text").drop_duplicates("question")
corpus["id"] = corpus["kind"] + "/" + corpus["name"]
corpus = corpus.drop_duplicates("id").reset_index(drop=True)

groups = corpus.groupby("kind")
questions = pd.concat([part.sample(min(len(part), QUESTIONS // 2), random_state=7) for _, part in groups])
groups.size().rename("documents").to_frame().join(questions.groupby("kind").size().rename("questions"))

# %%
job = collection.write(
    {"id": row.id, "title": row.name, "text": row.text, "metadata": {"kind": row.kind}}
    for row in corpus.itertuples(index=False)
)
job.wait(progress=lambda job: print(f"\r{job.progress.settled} of {job.progress.discovered}", end=""))
assert job.status == "completed", job

# %% [markdown]
# ## Asking
#
# Five times as many chunks are asked for as documents are looked at, so that one long document cannot fill
# the list.


# %%
def place(found, right):
    """Where the right document stands, from 1; infinite when it is not among the first."""
    documents = list(dict.fromkeys(hit.metadata["location"] for hit in found))[:DEEPEST]
    return documents.index(right) + 1 if right in documents else np.inf


def asked():
    for row in questions.itertuples(index=False):
        for mode in MODES:
            found = collection.search(row.question, top_k=5 * DEEPEST, mode=mode)
            yield {
                "kind": row.kind,
                "question": row.question,
                "right": row.id,
                "mode": mode,
                "used": found.mode_used or mode,
                "place": place(found, row.id),
                "took_ms": found.took_ms,
            }


answers = pd.DataFrame(list(asked()))
answers["MRR@10"] = 1 / answers["place"]
answers["nDCG@10"] = 1 / np.log2(1 + answers["place"])
for k in (1, 5, 10):
    answers[f"recall@{k}"] = (answers["place"] <= k).astype(float)

METRICS = ["recall@1", "recall@5", "recall@10", "MRR@10", "nDCG@10"]
table = answers.groupby(["kind", "mode"])[METRICS].mean()
overall = answers.groupby("mode")[METRICS].mean().loc[MODES]
overall.round(3)

# %%
table.round(3)


# %% [markdown]
# ## Plots


# %%
def interval(values, draws=1000):
    """Half of the 95 % interval of the mean, below and above."""
    chosen = np.random.default_rng(7).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values.to_numpy()[chosen].mean(axis=1), [2.5, 97.5])
    return values.mean() - low, high - values.mean()


figure, (bars, curve, latency) = plt.subplots(1, 3, figsize=(15, 4))
for shift, mode in enumerate(MODES):
    part = answers[answers["mode"] == mode]
    error = np.array([interval(part[metric]) for metric in METRICS]).T
    bars.bar(np.arange(len(METRICS)) + shift / 4, part[METRICS].mean(), width=0.25, yerr=error, label=mode)
    depths = np.arange(1, DEEPEST + 1)
    curve.plot(depths, [(part["place"] <= k).mean() for k in depths], marker=".", label=mode)
    took = np.sort(part["took_ms"])
    latency.plot(took, np.linspace(0, 1, len(took)), label=mode)
bars.set(title="By mode", ylim=(0, 1), xticks=np.arange(len(METRICS)) + 0.25, xticklabels=METRICS)
curve.set(title="Recall by depth", xlabel="k", ylim=(0, 1))
latency.set(title="Time of a search", xlabel="ms", ylabel="share of searches", xscale="symlog")
bars.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Where it fails
#
# The questions that no mode answers within the first ten: look at them before you change anything.

# %%
best = answers.groupby(["kind", "question", "right"])["place"].min().reset_index()
best[np.isinf(best["place"])].drop(columns="place").head(20)

# %%
assert overall.loc["hybrid", "recall@10"] > 0.3, "search finds less than it should"
