"""Questions whose right document is known, made from the docs of the packages that `requirements.lock` pins, so that
they change with it alone: what is drawn is drawn by hashes, so that they change little then.

Documents are descriptions of packages, docstrings of the public functions of numpy, pandas and pyarrow.compute, and the
reference of every operation of the AWS services for which botocore has examples. Questions, as many of each kind:

`paraphrase`: what botocore's authors say of an example of an operation. The reference was written by others.
`sentence`: a package's summary, or a docstring's first paragraph. It is taken out of the document.
`keywords`: two to four words of a document, drawn as Azzopardi and de Rijke draw queries for known items (2007): each
with a likelihood of its count in the document times the logarithm of how few documents have it.

A question has one right document, the one it is from; others may fit as well and count as wrong. Half of the questions,
drawn by chance, is to choose a way of ranking by; the other half is held out and only reported.
"""

import gzip
import html
import inspect
import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

Kind = Literal["paraphrase", "sentence", "keywords"]
KINDS: tuple[Kind, ...] = ("paraphrase", "sentence", "keywords")
Half = Literal["chosen by", "held out"]

EACH = 600
"""Questions of a kind."""
SHORTEST = 200
"""Characters of a document."""
FEWEST_WORDS = 4
LOCK = Path(__file__).parent.parent / "requirements.lock"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
MODULES = ("numpy", "pandas", "pandas:DataFrame", "pyarrow.compute")
WORD = re.compile(r"[a-z][a-z0-9_]{2,}")


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """right: the id of its document."""

    kind: Kind
    text: str
    right: str
    half: Half


@dataclass(frozen=True, slots=True)
class Labelled:
    documents: Sequence[Document]
    questions: Sequence[Question]


Told = tuple[Document, list[str]]
"""A document and what else was written about it."""
Pair = tuple[str, str]
"""A question and the id of its document."""


def labelled() -> Labelled:
    operations, told = _usable(_operations()), _usable([*_packages(), *_functions()])
    documents = [document for document, _ in (*operations, *told)]
    pairs: dict[Kind, Iterable[Pair]] = {
        "paraphrase": _pairs(operations),
        "sentence": _pairs(told),
        "keywords": _keywords(documents),
    }
    return Labelled(documents, [one for kind, some in pairs.items() for one in _drawn(kind, some)])


def _drawn(kind: Kind, pairs: Iterable[Pair]) -> Iterator[Question]:
    for text, right in sorted(pairs, key=_lot)[:EACH]:
        yield Question(kind, text, right, "held out" if _lot((right, text)) % 2 else "chosen by")


def _lot(told: Sequence[str]) -> int:
    return int.from_bytes(sha256("\n".join(told).encode()).digest()[:8], "big")


def _usable(told: Iterable[Told]) -> list[Told]:
    """Those of some length; of the same text the first."""
    found = {one.text: (one, texts) for one, texts in told if len(one.text) >= SHORTEST}
    return list({one.id: (one, texts) for one, texts in found.values()}.values())


def _pairs(told: Iterable[Told]) -> list[Pair]:
    """What is said of several documents asks for none."""
    of: dict[str, set[str]] = defaultdict(set)
    for document, texts in told:
        for text in texts:
            if len(text.split()) >= FEWEST_WORDS:
                of[text].add(document.id)
    return [(text, *documents) for text, documents in of.items() if len(documents) == 1]  # type: ignore[misc]


def _keywords(documents: Sequence[Document]) -> list[Pair]:
    counts = {one.id: Counter(WORD.findall(one.text.lower())) for one in documents}
    spread = Counter(word for words in counts.values() for word in words)
    chosen = sorted(counts, key=lambda document: _lot([document]))[:EACH]
    return [(_words(document, counts[document], spread, len(counts)), document) for document in chosen]


def _words(document: str, words: Mapping[str, int], spread: Mapping[str, int], of: int) -> str:
    chance, found = random.Random(_lot([document])), list[str]()
    weights = {word: count * math.log(of / spread[word]) for word, count in words.items()}
    for _ in range(chance.randint(2, 4)):
        (word,) = chance.choices(list(weights), list(weights.values()))
        del weights[word]
        found.append(word)
    return " ".join(found)


def _packages() -> Iterator[Told]:
    for pinned in sorted(set(PINNED.findall(LOCK.read_text()))):
        one = metadata.distribution(pinned)
        summary, text = one.metadata["Summary"] or "", str(one.metadata.get_payload() or "")
        name = one.metadata["Name"]
        yield Document(f"package/{name}", name, text.replace(summary, " ")), [summary]


def _functions() -> Iterator[Told]:
    for place in MODULES:
        module, _, owner = place.partition(":")
        holder = getattr(import_module(module), owner) if owner else import_module(module)
        for name in sorted(dir(holder)):
            thing = getattr(holder, name)
            doc = (inspect.getdoc(thing) or "") if callable(thing) and not name.startswith("_") else ""
            if doc.startswith(f"{name}("):  # numpy writes the signature first
                doc = doc.partition("\n\n")[2]
            first, _, text = doc.partition("\n\n")
            full = f"{place.replace(':', '.')}.{name}"
            yield Document(f"function/{full}", full, text.replace(first, " ")), [" ".join(first.split())]


def _operations() -> Iterator[Told]:
    for folder in _services():
        said = json.loads((folder / "examples-1.json").read_bytes())["examples"]
        model = json.loads(gzip.decompress((folder / "service-2.json.gz").read_bytes()))
        service = model["metadata"]["serviceId"]
        for name, operation in sorted(model["operations"].items()):
            examples = [_plain(one.get("description", "")) for one in said.get(name, ())]
            text = _plain(operation.get("documentation", ""))
            yield Document(f"operation/{service}.{name}", f"{service} {name}", text), examples


def _services() -> Iterator[Path]:
    """The newest version of each service that has examples."""
    root = Path(str(import_module("botocore").__file__)).parent / "data"
    for service in sorted(root.iterdir()):
        newest = max((one for one in service.glob("*") if one.is_dir()), default=None)
        file = newest / "examples-1.json" if newest else service
        if newest and file.exists() and json.loads(file.read_bytes()).get("examples"):
            yield newest


def _plain(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
