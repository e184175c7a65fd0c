"""`lengthwise characterize` and `lengthwise export-chat`: describe or export lengths."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.extras import extra

if TYPE_CHECKING:
    from lengthwise_training.data.rows import LengthFile


def characterize(
    data: Annotated[Path, typer.Option(help="JSONL (or .gz) of prompts with measured lengths.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables and pictures.")],
    keep_degenerate: Annotated[
        bool, typer.Option("--keep-degenerate", help="Keep rows marked degenerate.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Describe collected lengths: quantiles, tails, noise."""
    with extra("train"):
        from lengthwise_training.data.characterize import markdown, write_profiles
        from lengthwise_training.data.rows import LengthTable
    found = _read(data, keep_degenerate)
    with extra("local"):
        profiles = write_profiles(LengthTable(found.rows), out)
    if as_json:
        typer.echo(json.dumps(profiles))
    else:
        typer.echo(markdown(profiles))
        typer.echo(f"Pictures and tables are in {out}.")


def export_chat(
    data: Annotated[Path, typer.Option(help="JSONL (or .gz) of prompts with measured lengths.")],
    out: Annotated[Path, typer.Option(help="JSONL to write.")],
    form: Annotated[
        Literal["openai", "sharegpt"], typer.Option("--format", help="Format of a chat.")
    ] = "openai",
    label: Annotated[
        Literal["max", "mean", "percentile"],
        typer.Option(help="Which statistic of a prompt's samples is the label."),
    ] = "max",
    percentile: Annotated[
        float, typer.Option(min=0, max=100, help="With --label percentile.")
    ] = 80.0,
    bin_tokens: Annotated[
        int, typer.Option("--bin", min=1, help="Round the label up to a multiple of this.")
    ] = 50,
    model: Annotated[str | None, typer.Option(help="Only rows of this LLM.")] = None,
    keep_censored: Annotated[
        bool, typer.Option("--keep-censored", help="Keep rows with an answer cut at its cap.")
    ] = False,
) -> None:
    """Write lengths as chats, to tune an LLM to predict them."""
    with extra("train"):
        from lengthwise_training.data.chat_export import ChatFormat, ChatLabel, ChatTarget, chats
    rows = [r for r in _read(data, False).rows if model in (None, r.llm)]
    if not rows:
        raise BadUsage(f"{data} has no row of {model}")
    target = ChatTarget(ChatLabel(label), percentile, bin_tokens)
    part = out.with_name(out.name + ".part")
    written = 0
    with part.open("w", encoding="utf-8", errors="replace") as file:
        for chat in chats(rows, target, ChatFormat(form), keep_censored=keep_censored):
            file.write(json.dumps(chat, ensure_ascii=False) + "\n")
            written += 1
    os.replace(part, out)
    typer.echo(f"{written} chats; {len(rows) - written} rows left out, cut at their cap")


def _read(data: Path, keep_degenerate: bool) -> LengthFile:
    with extra("train"):
        from lengthwise_training.data.rows import BadLines, read
    try:
        found = read(data, keep_degenerate=keep_degenerate)
    except BadLines as exc:
        raise BadUsage(str(exc)) from exc
    for line in found.bad[:5]:
        typer.echo(f"lengthwise: {data}, {line}", err=True)
    if found.degenerate:
        typer.echo(f"lengthwise: {found.degenerate} degenerate rows left out", err=True)
    return found
