"""`python -m benchmarks.run`: one command for each figure, and `report` to show them all.

Each command appends its figures to the results and prints its rows of the table of goals. Loads are bounded
in time and number and go to loopback only.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import burst as bursts
from benchmarks import executions, gets, limits, quality, results, stored, vault
from benchmarks import idle as idling
from benchmarks import ingestion as ingesting
from benchmarks import report as reports
from benchmarks import streams as streaming
from benchmarks import usage as using
from benchmarks import webhooks as telling
from benchmarks.goals import goals_table
from benchmarks.installation import Installation
from benchmarks.labelled import labelled
from benchmarks.results import Figure

RESULTS = Path(__file__).parent / "results.tsv"

Seconds = Annotated[int, typer.Option(min=1, max=60, help="of each load")]
Rounds = Annotated[int, typer.Option(min=1, max=20, help="how often, by turns")]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Book:
    """Where the figures of one run of a benchmark are written."""

    file: Path
    run: str

    def keep(self, bench: str, figures: Iterable[Figure]) -> None:
        """One by one, so that what was measured before a failure stays."""
        kept: list[Figure] = []
        for figure in figures:
            results.append(self.file, bench, [figure], self.run)
            kept.append(figure)
        typer.echo(goals_table({bench: results.by_case(kept)}))


@app.callback()
def main(context: typer.Context, file: Annotated[Path, typer.Option("--results")] = RESULTS) -> None:
    """Measures the platform beside its goals. --results is the TSV to append to."""
    context.obj = Book(file, results.moment())


@app.command("exec")
def exec_(
    context: typer.Context,
    seconds: Seconds = 8,
    passes: Rounds = 2,
    peers: Annotated[str, typer.Option(help="names, by commas")] = ",".join(executions.PEERS),
) -> None:
    """A trivial flow, awaited over HTTP at c=1, 16 and 64, beside its peers."""
    effort = executions.Effort(seconds, passes, (1, 16, 64))
    context.obj.keep("exec", executions.beside_peers(effort, peers.split(",")))


@app.command()
def get(context: typer.Context, seconds: Seconds = 5, rounds: Rounds = 4) -> None:
    """GET of an agent beside no-ops through the same Serve."""
    with Installation("get").running() as installation:
        context.obj.keep("get", gets.beside_noops(installation, seconds, rounds))


@app.command("limits")
def limits_(context: typer.Context, seconds: Seconds = 5, rounds: Rounds = 4) -> None:
    """What metering costs, and whether anybody gets more than their share, also while parts are killed."""
    context.obj.keep("limits", limits.all_of_them(seconds, rounds))


@app.command()
def burst(
    context: typer.Context,
    count: Annotated[int, typer.Option(min=1, max=5000)] = 1000,
    rounds: Rounds = 3,
) -> None:
    """Executions of a call of a second, submitted at once to one runner."""
    with Installation("burst", settings=bursts.ONE_RUNNER).running() as installation:
        figures = (bursts.burst(installation, count) for _ in range(rounds))
        context.obj.keep("burst", chain.from_iterable(figures))


@app.command()
def streams(
    context: typer.Context,
    count: Annotated[int, typer.Option(min=1, max=2000)] = 500,
    tokens: Annotated[int, typer.Option(min=1, max=1000)] = 30,
    gap_ms: Annotated[int, typer.Option(min=10, max=10_000)] = 500,
    rounds: Rounds = 2,
) -> None:
    """Open WebSocket streams of running executions."""
    plan = streaming.Plan(count, tokens, gap_ms)
    with Installation("streams").running() as installation:
        figures = (streaming.streams(installation, plan) for _ in range(rounds))
        context.obj.keep("streams", chain.from_iterable(figures))


@app.command("stored")
def stored_(
    context: typer.Context,
    small: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    large: Annotated[int, typer.Option(min=2, max=1_000_000)] = 100_000,
    seconds: Seconds = 3,
    rounds: Rounds = 6,
) -> None:
    """Lists, searches and new executions where little and where much is stored."""
    low, high = stored.sides(small, large)
    with low.running(), high.running():
        (less, _), (more, sizes) = stored.fill(low, small), stored.fill(high, large)
        if sizes:
            results.append(context.obj.file, "memory", sizes, context.obj.run)
        context.obj.keep("stored", stored.compared(less, more, seconds, rounds))


@app.command()
def usage(context: typer.Context, seconds: Seconds = 4, rounds: Rounds = 3) -> None:
    """Usage of a month of a million executions."""
    with Installation("usage", settings=using.QUIET).running() as installation:
        month = using.seeded(installation)
        context.obj.keep("usage", using.shown(installation, month, seconds, rounds))


@app.command()
def webhooks(context: typer.Context, rounds: Rounds = 3) -> None:
    """Deliveries a second of one courier, and whether a receiver that hangs holds up the others."""
    with Installation("webhooks", settings=telling.LOOPBACK).running() as installation:
        context.obj.keep("webhooks", chain(telling.one(installation, rounds), telling.hanging(installation)))


Files = Annotated[int, typer.Option(min=100, max=200_000, help="or documents, to take in")]


@app.command()
def ingest(context: typer.Context, files: Files = 5_000, rounds: Rounds = 3) -> None:
    """Markdown files of a folder beside a plain loop and LlamaIndex."""
    context.obj.keep("ingest", ingesting.beside_peers(files, rounds))


@app.command("ingest-large")
def ingest_large(context: typer.Context, files: Files = 50_000) -> None:
    """Many files, beside the stages that cost most, each alone."""
    context.obj.keep("ingest-large", ingesting.large(Installation("ingest-large"), files))


@app.command("ingest-memory")
def ingest_memory(context: typer.Context, documents: Files = 100_000) -> None:
    """Memory while a bucket is read."""
    installation = Installation("ingest-memory", settings=ingesting.FROM_BUCKET)
    context.obj.keep("ingest-memory", ingesting.memory(installation, documents))


@app.command("ingest-again")
def ingest_again(context: typer.Context, documents: Files = 20_000) -> None:
    """A bucket of which one object in a hundred has changed since the first time."""
    installation = Installation("ingest-again", settings=ingesting.FROM_BUCKET)
    context.obj.keep("ingest-again", ingesting.again(installation, documents))


@app.command()
def search(context: typer.Context, files: Files = 6_500, busy_files: Files = 20_000) -> None:
    """Hybrid search, beside Milvus itself, and while a bulk job runs."""
    context.obj.keep("search", ingesting.search(Installation("search"), files, busy_files))


@app.command("quality")
def quality_(context: typer.Context) -> None:
    """How well the modes of search find documents that are known to be right."""
    with Installation("quality").running() as installation:
        context.obj.keep("quality", quality.by_mode(installation, labelled()))


@app.command("vault")
def vault_(context: typer.Context, seconds: Seconds = 5, rounds: Rounds = 4) -> None:
    """Decrypted reads, and a new key-encryption key while everybody reads."""
    context.obj.keep("vault", vault.all_of_them(seconds, rounds))


@app.command()
def idle(context: typer.Context, seconds: Annotated[int, typer.Option(min=1, max=600)] = 60) -> None:
    """Memory and processor time of a platform that nobody uses."""
    with Installation("idle").running() as installation:
        context.obj.keep("idle", idling.idle(installation, seconds))


@app.command()
def up(context: typer.Context, rounds: Rounds = 3) -> None:
    """Seconds from `python -m cluster up` to ready, with warm caches."""
    context.obj.keep("up", idling.warm_starts(Installation("up"), rounds))


@app.command()
def report(context: typer.Context) -> None:
    """The newest run of each, as Markdown."""
    typer.echo(reports.report(context.obj.file))


if __name__ == "__main__":
    app()
