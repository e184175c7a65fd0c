"""`lengthwise top`: the queue, live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lengthwise_cli.commands.submit import ApiKey, Model, Url
from lengthwise_contract.queue_settings import QueueMode
from lengthwise_contract.queue_views import QueueView, SnapshotEntry, SnapshotView
from lengthwise_lab.errors import ServiceError
from lengthwise_lab.loadtest.client import ServiceClient

#: Jobs of each kind in one request.
FETCHED = 100
#: Throughput counts the jobs that ended within this time, ms.
WINDOW_MS = 30_000.0
#: Lines above the tables. Each table has two more: a title and headings.
HEAD_LINES = 6
#: Width of a job's id, a UUID. Shortened ids look alike, because they begin with the time.
ID_WIDTH = 36


def top(
    url: Url = "http://127.0.0.1:8080",
    api_key: ApiKey = None,
    model: Model = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between frames.")] = 1.0,
    rows: Annotated[int, typer.Option(min=1, max=FETCHED, help="Rows of each table, at most.")] = 8,
    once: Annotated[bool, typer.Option(help="Print one frame and exit, for scripts.")] = False,
) -> None:
    """Show the queue live: waiting, running and finished jobs."""
    asyncio.run(_top(ServiceClient(url, api_key=api_key, timeout_s=5), model, interval, rows, once))


async def _top(
    service: ServiceClient, model: str | None, interval_s: float, rows: int, once: bool
) -> None:
    console = Console(highlight=False)
    async with service:
        chosen = await service.only_model(model)

        async def read_frame(rows: int = rows) -> RenderableType:
            view, snapshot = await asyncio.gather(
                service.queue(chosen), service.snapshot(chosen, FETCHED)
            )
            return frame(view, snapshot, rows=rows)

        if once:
            console.print(await read_frame())
            return
        shown = await read_frame(_fitting(rows, console.height))
        with Live(shown, console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                await asyncio.sleep(interval_s)
                try:
                    shown = await read_frame(_fitting(rows, console.height))
                    live.update(shown, refresh=True)
                except ServiceError as exc:
                    live.update(Group(Text(str(exc), style="red"), shown), refresh=True)


def _fitting(rows: int, height: int) -> int:
    """Rows of each of three tables that fit a terminal of `height` lines, at most `rows`."""
    return max(1, min(rows, (height - HEAD_LINES - 3 * 2) // 3))


def throughput(snapshot: SnapshotView) -> tuple[float, float]:
    """Tokens and jobs per second, over the jobs that ended within `WINDOW_MS`.

    The span starts at the window's start, or at the start of the earliest of these jobs if that is
    later: a burst that has just started is not averaged over empty seconds.
    """
    since_ms = snapshot.now_ms - WINDOW_MS
    ended = [e for e in snapshot.finished if e.finished_ms is not None and e.finished_ms > since_ms]
    if not ended:
        return 0.0, 0.0
    starts = [e.started_ms if e.started_ms is not None else e.accepted_ms for e in ended]
    span_s = (snapshot.now_ms - max(since_ms, min(starts))) / 1000
    if span_s <= 0:
        return 0.0, 0.0
    return sum(e.output_tokens or 0 for e in ended) / span_s, len(ended) / span_s


def frame(view: QueueView, snapshot: SnapshotView, *, rows: int) -> RenderableType:
    """Draw the queue once. It fits a terminal of 80 columns, with whole job ids."""
    now_ms = snapshot.now_ms
    return Group(
        _head(view, snapshot),
        _table(
            f"next ({view.depth})",
            snapshot.waiting[:rows],
            {
                "class": lambda e: e.job_class,
                "predicted": lambda e: f"{e.predicted_tokens:.0f}",
                "waits": lambda e: _seconds(now_ms - e.accepted_ms),
            },
        ),
        _table(
            f"running ({view.in_flight})",
            snapshot.running[:rows],
            {
                "class": lambda e: e.job_class,
                "predicted": lambda e: f"{e.predicted_tokens:.0f}",
                "runs": lambda e: _seconds(now_ms - (e.started_ms or now_ms)),
            },
        ),
        _table(
            "last finished",
            snapshot.finished[:rows],
            {
                "state": lambda e: e.state.value,
                "predicted": lambda e: f"{e.predicted_tokens:.0f}",
                "actual": lambda e: "" if e.output_tokens is None else str(e.output_tokens),
                "took": lambda e: _seconds((e.finished_ms or now_ms) - e.accepted_ms),
            },
        ),
    )


def _head(view: QueueView, snapshot: SnapshotView) -> Text:
    tokens_per_s, jobs_per_s = throughput(snapshot)
    backlog = "no worker" if view.backlog_seconds is None else f"{view.backlog_seconds:.1f} s"
    slots = sum(w.slots for w in view.workers)
    ends = {
        "done": view.succeeded,
        "failed": view.failed,
        "cancelled": view.cancelled,
        "expired": view.expired,
        "unpredicted": view.fallbacks,
    }
    return Text.assemble(
        (view.name, "bold"),
        f"  {_order(view)}  ",
        f"{len(view.workers)} worker{'' if len(view.workers) == 1 else 's'}, {slots} slots\n",
        *((f"worker {w.id}: {w.problem}\n", "bold red") for w in view.workers if w.problem),
        (_MODES[view.mode].format(name=view.name), "bold red"),
        ("waiting ", "dim"),
        f"{view.depth}",
        (f"  (backlog {backlog}, oldest {view.oldest_wait_seconds:.1f} s)   ", "dim"),
        ("running ", "dim"),
        f"{view.in_flight}\n",
        f"{tokens_per_s:.1f} tokens/s  {jobs_per_s:.2f} jobs/s   ",
        # Counts of zero are left out, so that the line fits.
        ("  ".join(f"{k} {n}" for k, n in ends.items() if n or k == "done"), "dim"),
        "\n",
        _learned(view),
    )


#: The state of a queue that is not open, and the request that opens it.
_MODES: dict[QueueMode, str] = {
    "open": "",
    "paused": "paused: starts no jobs; POST /v1/queues/{name}/resume\n",
    "draining": "draining: accepts no jobs; POST /v1/queues/{name}/resume\n",
}


def _learned(view: QueueView) -> Text:
    """The order of the served predictions, and what it was before anything was learned."""
    of = view.learning
    if of is None:
        tau = "" if view.tau_b is None else f"tau served {view.tau_b:.2f}  "
        return Text(f"{tau}learning off\n", style="dim")
    if of.tau_served is None or of.tau_static is None:
        tau = "" if view.tau_b is None else f"tau served {view.tau_b:.2f}, "
        return Text(f"{tau}learning from {of.jobs} jobs\n", style="dim")
    return Text.assemble(
        f"tau served {of.tau_served:.2f}, before learning {of.tau_static:.2f}",
        (f"  (serves {of.serving}; {of.jobs} jobs, {of.fits} fits)\n", "dim"),
    )


def _order(view: QueueView) -> str:
    """The order in force, and the factors that bound overtaking."""
    settings = view.settings
    if settings.policy != "sjf":
        return settings.policy
    if view.fallback:
        return f"sjf suspended (predictions degraded), serves {view.active_policy}"
    factor, wait_factor = settings.overtake_factor, settings.overtake_wait_factor
    return f"sjf, k {factor:g}, wait factor {wait_factor:g}"


def _seconds(ms: float) -> str:
    return f"{ms / 1000:.1f} s"


def _table(
    title: str, entries: list[SnapshotEntry], columns: dict[str, Callable[[SnapshotEntry], str]]
) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=True
    )
    table.add_column("job", min_width=ID_WIDTH, no_wrap=True, style="dim")
    for heading in columns:
        if heading in ("class", "state"):
            table.add_column(heading, ratio=1, no_wrap=True)
        else:
            table.add_column(heading, width=9, justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(entry.id, *(shown(entry) for shown in columns.values()))
    return table
