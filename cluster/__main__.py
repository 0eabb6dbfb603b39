"""`python -m cluster`: up, down, status, doctor, key, reconcile, audit verify, vault status|rotate|prune.

Exit codes: 0 fine, 1 refused or not all well, 3 not running, 130 interrupted.
`lifecycle` brings the kernel and an HTTP client, so it is imported only where used: the keeper stays light.
"""

import json
import sys
from typing import Annotated

import typer
from pydantic import ValidationError

from cluster import doctor as examination
from cluster import keeper as keeping
from cluster import printing
from cluster import status as reading
from cluster.failure import Refused
from cluster.layout import Home
from cluster.state import State, read_state
from configs.settings import Settings

NOT_RUNNING = 3
INTERRUPTED = 130

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
audit = typer.Typer(no_args_is_help=True, help="The audit logs.")
app.add_typer(audit, name="audit")
vault = typer.Typer(no_args_is_help=True, help="The key-encryption keys of the vault.")
app.add_typer(vault, name="vault")


@app.command()
def up() -> None:
    """Start the platform in the background and run the first agent."""
    from cluster import lifecycle

    lifecycle.up(*_here())


@app.command()
def down() -> None:
    """Stop the platform. All data is kept."""
    from cluster import lifecycle

    lifecycle.down(_here()[0])


@app.command()
def key() -> None:
    """Make another key for the owner, who lost theirs."""
    from cluster import lifecycle

    lifecycle.new_key(*_here())


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """Say what runs."""
    found = reading.status(_here()[0])
    if as_json:
        printing.line(json.dumps(found.as_json(), indent=2))
    else:
        reading.show(found)
    if not found.running:
        raise typer.Exit(NOT_RUNNING)


@app.command()
def doctor() -> None:
    """Look for what could keep the platform from running well."""
    if not examination.show(examination.examine(*_here())):
        raise typer.Exit(1)


@app.command()
def reconcile(
    days: Annotated[int, typer.Option(min=1, max=366, help="today and those before it")] = 30,
    workspace: Annotated[str | None, typer.Option(help="id of the only one to look at")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Check that usage says what the executions themselves say."""
    from cluster import reconcile as checking

    if not checking.reconcile(*_running(), days, workspace, as_json):
        raise typer.Exit(1)


@audit.command()
def verify(
    workspace: Annotated[str | None, typer.Option(help="id of the only one to look at")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Check that no entry was changed, removed or slipped in since it was written."""
    from cluster import audit as checking

    if not checking.verify(*_running(), workspace, as_json):
        raise typer.Exit(1)


@vault.command(name="status")
def vault_status() -> None:
    """Say how many values are sealed under each key-encryption key."""
    from cluster import vault as keeping_keys

    keeping_keys.status(*_running())


@vault.command()
def rotate() -> None:
    """Make a new key-encryption key and wrap everything under it, while everybody goes on reading."""
    from cluster import vault as keeping_keys

    if not keeping_keys.rotate(*_running()):
        raise typer.Exit(1)


@vault.command()
def prune() -> None:
    """Forget old key-encryption keys that nothing is sealed under."""
    from cluster import vault as keeping_keys

    keeping_keys.prune(*_running())


@app.command(hidden=True)
def keeper() -> None:
    """Run in the foreground what `up` starts in the background."""
    raise typer.Exit(keeping.main(*_here()))


def _running() -> tuple[Home, Settings, State]:
    """The installation, which runs, for commands that open the kernel."""
    from kernel.logs import configure

    home, settings = _here()
    configure(settings.log_level)
    state = read_state(home)
    if state is None or not state.keeper_alive():
        printing.refused("the platform is not running", "start it: make up")
        raise typer.Exit(NOT_RUNNING)
    return home, settings, state


def _here() -> tuple[Home, Settings]:
    """The installation that the environment names."""
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "CODEXOS_" + "__".join(str(part) for part in first["loc"]).upper()
        raise Refused(f"{name} is not usable: {first['msg']}", "correct it in the environment") from None
    return Home(settings.root), settings


def main() -> None:
    try:
        app()
    except Refused as refusal:
        printing.give_up(refusal)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
