"""`lengthwise tenants`: make API keys, and check a tenants file before it is used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lengthwise_cli.errors import BadUsage
from lengthwise_queue.tenants import keys as api_keys
from lengthwise_queue.tenants.tenant import read_tenants

app = typer.Typer(help="Make API keys and check a file of tenants.", no_args_is_help=True)


@app.command("new-key")
def new_key() -> None:
    """Make an API key. It is printed once; the tenants file holds its hash."""
    key = api_keys.new_key()
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        "Give the first line to the tenant: it is not stored. Put the second line into the tenants "
        "file, under `keys` of the tenant.",
        style="dim",
    )
    typer.echo(key)
    typer.echo(api_keys.hash_key(key))


@app.command("hash-key")
def hash_key() -> None:
    """Hash an existing key from standard input; other users can read arguments."""
    if sys.stdin.isatty():
        key = str(typer.prompt("Key", hide_input=True, err=True))
    else:
        key = sys.stdin.readline().strip()
    try:
        typer.echo(api_keys.hash_key(key))
    except ValueError as exc:
        raise BadUsage(str(exc)) from None


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="The tenants file, YAML or JSON.")],
) -> None:
    """Print the tenants of a file, or its first fault."""
    try:
        tenants = read_tenants(file.read_bytes())
    except OSError as exc:
        raise BadUsage(f"{file} cannot be read: {exc.strerror}") from None
    except ValueError as exc:
        raise BadUsage(f"{file} is not valid: {exc}") from None
    table = Table("tenant", "keys", "weight", "requests/min", "tokens/min", "depth", "services")
    for t in tenants:
        table.add_row(
            f"{t.name} (admin)" if t.admin else t.name,
            str(len(t.keys)),
            f"{t.weight:g}",
            _limit(t.requests_per_minute),
            _limit(t.tokens_per_minute),
            f"{t.depth_share:.0%}",
            "all" if t.admin else " ".join(t.services),
        )
    Console(highlight=False).print(table)


def _limit(value: int | None) -> str:
    return "-" if value is None else str(value)
