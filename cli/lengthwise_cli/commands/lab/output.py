"""Print and write the results of `lengthwise lab`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markdown import Markdown


def print_markdown(text: str) -> None:
    """Print tables to a terminal, and Markdown to a file or a pipe."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        typer.echo(text, nl=False)


def deliver(
    result: dict[str, Any],
    text: str,
    draw: Callable[[dict[str, Any], Path], None],
    *,
    as_json: bool,
    markdown: Path | None,
    png: Path | None,
) -> None:
    """Print a result, and write the files that the flags name."""
    if markdown is not None:
        markdown.write_text(text, encoding="utf-8")
    if png is not None:
        draw(result, png)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        print_markdown(text)
