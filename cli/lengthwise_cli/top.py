"""`lengthwise top`: the line as it stands, live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lengthwise_cli.submit import ApiKey, Model, Url
from lengthwise_contract.api import LineEntry, LineView, QueueView
from lengthwise_lab.errors import ServiceError
from lengthwise_lab.service import Service

#: How many jobs of each kind are asked for.
FETCHED = 100
#: Throughput is that of the jobs that ended within this, ms.
WINDOW_MS = 30_000.0


def top(
    url: Url = "http://127.0.0.1:8080",
    api_key: ApiKey = None,
    model: Model = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between frames.")] = 1.0,
    rows: Annotated[int, typer.Option(min=1, max=FETCHED, help="Jobs shown of each kind.")] = 8,
    once: Annotated[bool, typer.Option(help="Print one frame and end; for scripts.")] = False,
) -> None:
    """Show who waits, who runs, who is done, and how fast; Ctrl-C ends it."""
    asyncio.run(_top(Service(url, api_key=api_key, timeout_s=5), model, interval, rows, once))


async def _top(there: Service, model: str | None, interval_s: float, rows: int, once: bool) -> None:
    console = Console(highlight=False)
    async with there as service:
        chosen = await service.only_model(model)

        async def look() -> RenderableType:
            view, line = await asyncio.gather(service.queue(chosen), service.line(chosen, FETCHED))
            return frame(view, line, rows=rows)

        if once:
            console.print(await look())
            return
        shown = await look()
        with Live(shown, console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                await asyncio.sleep(interval_s)
                try:
                    shown = await look()
                    live.update(shown, refresh=True)
                except ServiceError as exc:
                    live.update(Group(Text(str(exc), style="red"), shown), refresh=True)


def throughput(line: LineView) -> tuple[float, float]:
    """Tokens and jobs per second, over the jobs that ended within `WINDOW_MS`.

    The span reaches back to the start of the earliest of them if that is later than the window's
    start, so that a burst that has just begun is not watered down.
    """
    since_ms = line.now_ms - WINDOW_MS
    ended = [e for e in line.finished if e.finished_ms is not None and e.finished_ms > since_ms]
    if not ended:
        return 0.0, 0.0
    starts = [e.started_ms if e.started_ms is not None else e.accepted_ms for e in ended]
    span_s = (line.now_ms - max(since_ms, min(starts))) / 1000
    if span_s <= 0:
        return 0.0, 0.0
    return sum(e.output_tokens or 0 for e in ended) / span_s, len(ended) / span_s


def frame(view: QueueView, line: LineView, *, rows: int) -> RenderableType:
    """One picture of the queue."""
    tokens_per_s, jobs_per_s = throughput(line)
    settings = view.settings
    backlog = "no worker" if view.backlog_seconds is None else f"{view.backlog_seconds:.1f} s"
    slots = sum(w.slots for w in view.workers)
    order = f"{settings.policy}" + (
        f", k {settings.overtake_factor:g}" if settings.policy == "sjf" else ""
    )
    head = Text.assemble(
        (view.name, "bold"),
        f"  {order}  ",
        f"{len(view.workers)} worker{'' if len(view.workers) == 1 else 's'}, {slots} slots\n",
        ("waiting ", "dim"),
        f"{view.depth}",
        (f"  (backlog {backlog}, oldest {view.oldest_wait_seconds:.1f} s)   ", "dim"),
        ("running ", "dim"),
        f"{view.in_flight}\n",
        f"{tokens_per_s:.1f} tokens/s  {jobs_per_s:.2f} jobs/s",
        (
            f"   done {view.succeeded}  failed {view.failed}  cancelled {view.cancelled}"
            f"  expired {view.expired}  unpredicted {view.fallbacks}\n",
            "dim",
        ),
    )
    now_ms = line.now_ms
    return Group(
        head,
        _table(
            f"next ({view.depth})", "waits", line.waiting[:rows], lambda e: now_ms - e.accepted_ms
        ),
        _table(
            f"running ({view.in_flight})",
            "runs",
            line.running[:rows],
            lambda e: now_ms - (e.started_ms or now_ms),
        ),
        _table(
            "last finished",
            "took",
            line.finished[:rows],
            lambda e: (e.finished_ms or now_ms) - e.accepted_ms,
        ),
    )


def _table(
    title: str, clock: str, entries: list[LineEntry], clock_ms: Callable[[LineEntry], float]
) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=True
    )
    table.add_column("job", ratio=1, no_wrap=True, style="dim")
    table.add_column("class", width=12, no_wrap=True)
    for heading in ("predicted", "actual", clock):
        table.add_column(heading, width=9, justify="right", no_wrap=True)
    table.add_column("state", width=9, no_wrap=True)
    for entry in entries:
        actual = "" if entry.output_tokens is None else str(entry.output_tokens)
        table.add_row(
            entry.id,
            entry.job_class,
            f"{entry.predicted_tokens:.0f}",
            actual,
            f"{clock_ms(entry) / 1000:.1f} s",
            entry.state.value,
        )
    return table
