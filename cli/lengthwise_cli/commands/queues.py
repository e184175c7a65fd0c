"""`lengthwise queues`: list the queues of a running service, change their settings, remove one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lengthwise_cli.commands.submit import ApiKey, Url
from lengthwise_cli.errors import BadUsage
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.loadtest.client import ServiceClient

app = typer.Typer(
    help="List the queues of a running service, change their settings, remove one.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="The queue: the name of its model.")]


@app.command("list")
def list_queues(url: Url = "http://127.0.0.1:8080", api_key: ApiKey = None) -> None:
    """List the queues: jobs, workers, and the settings that people set."""

    async def run() -> None:
        async with ServiceClient(url, api_key=api_key) as service:
            table = Table("queue", "mode", "waiting", "running", "workers", "set")
            for view in await service.queues():
                shown = view.settings.model_dump(mode="json", include={*view.settings_set})
                values = ", ".join(f"{name}={json.dumps(v)}" for name, v in shown.items())
                counts = map(str, (view.depth, view.in_flight, len(view.workers)))
                table.add_row(view.name, view.mode, *counts, values)
            Console(highlight=False).print(table)

    asyncio.run(run())


@app.command("set")
def set_settings(
    name: Name,
    settings: Annotated[
        list[str],
        typer.Argument(help="SETTING=VALUE, ...; VALUE is JSON or a word; empty: the default."),
    ],
    url: Url = "http://127.0.0.1:8080",
    api_key: ApiKey = None,
) -> None:
    """Change settings of a queue; those that are not named stay as they are."""
    changes = parse_settings(settings)

    async def run() -> None:
        async with ServiceClient(url, api_key=api_key) as service:
            await service.patch_queue(name, changes)
            view = await service.queue(name)
        shown = view.settings.model_dump(mode="json", include={*changes})
        typer.echo(json.dumps(shown, indent=2))

    asyncio.run(run())


@app.command("remove")
def remove(
    name: Name,
    force: Annotated[
        bool, typer.Option(help="Cancel its jobs, delete its dead letters, ignore its workers.")
    ] = False,
    url: Url = "http://127.0.0.1:8080",
    api_key: ApiKey = None,
) -> None:
    """Remove a queue that has no jobs, no dead letters and no workers."""

    async def run() -> None:
        async with ServiceClient(url, api_key=api_key) as service:
            await service.remove_queue(name, force=force)

    asyncio.run(run())
    typer.echo(f"removed {name}")


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """Parse SETTING=VALUE; an empty value is None, the default.

    Raises:
        BadUsage: There is no `=`, or no such setting.
    """
    changes: dict[str, Any] = {}
    for one in given:
        name, found, text = one.partition("=")
        if not found:
            raise BadUsage(f"{one!r} is not SETTING=VALUE, such as max_depth=500")
        if name not in QueueSettings.model_fields:
            known = ", ".join(sorted(QueueSettings.model_fields))
            raise BadUsage(f"a queue has no setting {name!r}; it has {known}")
        try:
            changes[name] = json.loads(text) if text else None
        except ValueError:
            changes[name] = text
    return changes
