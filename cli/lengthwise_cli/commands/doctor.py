"""`lengthwise doctor`: what this machine has for Lengthwise, what is missing, and what to do."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lengthwise_cli.local import checkup
from lengthwise_cli.local.checkup import Finding, Verdict

_STYLES = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.MISSING: "bold red"}


def doctor(
    redis_url: Annotated[
        str | None, typer.Option(help="Check this Redis or Valkey. Default: the embedded one.")
    ] = None,
    engine_url: Annotated[
        str | None, typer.Option(help="Check this engine. Default: the embedded LLM.")
    ] = None,
    engine_api_key: Annotated[
        str | None, typer.Option(help="The engine's API key; set it by environment.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port on which `lengthwise up` would listen.")
    ] = 8080,
    data_dir: Annotated[Path, typer.Option(help="Folder that `lengthwise up` would use.")] = Path(
        ".lengthwise"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Check this machine: what is there, what is missing, what to do.

    Exits with status 1 when something is missing without which `lengthwise up` cannot start.
    """
    findings = asyncio.run(
        checkup.examine(
            redis_url=redis_url,
            engine_url=engine_url,
            engine_api_key=engine_api_key,
            port=port,
            data_dir=data_dir,
        )
    )
    if as_json:
        typer.echo(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        Console(highlight=False).print(_table(findings))
    if any(finding.verdict is Verdict.MISSING for finding in findings):
        raise typer.Exit(1)


def _table(findings: list[Finding]) -> Table:
    table = Table(show_lines=False, expand=False)
    for head in ("", "what", "found", "what to do"):
        table.add_column(head, overflow="fold")
    for finding in findings:
        verdict = f"[{_STYLES[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(verdict, finding.subject, _plain(finding.found), _plain(finding.remedy))
    return table


def _plain(text: str) -> str:
    """Escape what rich would read as markup."""
    return text.replace("[", "\\[")
