"""`python -m cluster`: up, down, status, doctor, key.

Exit codes: 0 fine, 1 refused, 3 not running, 130 interrupted.
`lifecycle` brings the kernel and an HTTP client, so it is imported only where used: the keeper stays light.
"""

import json
import sys
from typing import Annotated

import typer

from cluster import doctor as examination
from cluster import keeper as keeping
from cluster import printing
from cluster import status as reading
from cluster.failure import Refused
from cluster.layout import Home
from configs.settings import Settings

NOT_RUNNING = 3
INTERRUPTED = 130

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def up() -> None:
    """Start the platform in the background and run the first agent."""
    from cluster import lifecycle

    lifecycle.up(Home(Settings().root), Settings())


@app.command()
def down() -> None:
    """Stop the platform. All data is kept."""
    from cluster import lifecycle

    lifecycle.down(Home(Settings().root))


@app.command()
def key() -> None:
    """Make another key for the owner, who lost theirs."""
    from cluster import lifecycle

    lifecycle.new_key(Home(Settings().root), Settings())


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """Say what runs."""
    found = reading.status(Home(Settings().root))
    if as_json:
        printing.line(json.dumps(found.as_json(), indent=2))
    else:
        reading.show(found)
    if not found.running:
        raise typer.Exit(NOT_RUNNING)


@app.command()
def doctor() -> None:
    """Look for what could keep the platform from running well."""
    settings = Settings()
    if not examination.show(examination.examine(Home(settings.root), settings)):
        raise typer.Exit(1)


@app.command(hidden=True)
def keeper() -> None:
    """Run in the foreground what `up` starts in the background."""
    raise typer.Exit(keeping.main(Home(Settings().root), Settings()))


def main() -> None:
    try:
        app()
    except Refused as refusal:
        printing.give_up(refusal)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
