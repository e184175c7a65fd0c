"""Show a race while it runs: two columns in a terminal, a line every few seconds in a log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lengthwise_lab.loadtest.applications import Application, applications
from lengthwise_lab.loadtest.race import LaneProgress, Race

#: Seconds between two frames of the live screen, and between two lines of a log.
FRAME_S = 0.25
LINE_S = 5.0

#: Policy -> title and colour of its column.
_TITLES = {
    "fcfs": ("first come, first served", "white"),
    "sjf": ("short first (Lengthwise)", "dodger_blue1"),
}
#: Heights of the difference, in the row that shows how it grows.
_BLOCKS = "▁▂▃▄▅▆▇█"


@asynccontextmanager
async def watch(race: Race, console: Console) -> AsyncIterator[None]:
    """Show a race from its start to its end."""
    show = _show_live if console.is_terminal else _print_lines
    task = asyncio.create_task(show(race, console), name="demo-screen")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _show_live(race: Race, console: Console) -> None:
    screen = Screen(race.lanes)
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(screen.frame(race.seconds), refresh=True)
                await asyncio.sleep(FRAME_S)
        finally:
            live.update(screen.frame(race.seconds), refresh=True)


async def _print_lines(race: Race, console: Console) -> None:
    printed = ""
    try:
        while True:
            await asyncio.sleep(LINE_S)
            printed = line(race.lanes, race.seconds)
            console.print(printed, markup=False, soft_wrap=True)
    finally:
        last = line(race.lanes, race.seconds)
        if last != printed:
            console.print(last, markup=False, soft_wrap=True)


def line(lanes: Mapping[str, LaneProgress], now_s: float) -> str:
    """Return the state of a race as one line of text."""
    states = [
        f"{_TITLES[policy][0]}: {len(lane.answered)} of {len(lane.requests)} answered, "
        f"{len(lane.running)} running, mean wait {lane.mean_wait_s(now_s):.1f} s"
        for policy, lane in lanes.items()
    ]
    return f"{now_s:5.0f} s | {' | '.join(states)} | {_difference(lanes, now_s)}"


class Screen:
    """The live screen of a race. It keeps how the difference of the means has grown."""

    def __init__(self, lanes: Mapping[str, LaneProgress]) -> None:
        """Build the screen of the lanes: policy -> progress."""
        self._lanes = lanes
        self._differences: list[float] = []
        self._applications = applications()

    def frame(self, now_s: float) -> RenderableType:
        """Return the frame at a moment, seconds after the start."""
        first, *_, last = (lane.mean_wait_s(now_s) for lane in self._lanes.values())
        self._differences.append(first - last)
        columns = Table.grid(expand=True, padding=(0, 1))
        for _ in self._lanes:
            columns.add_column(ratio=1)
        columns.add_row(*(self._column(policy, now_s) for policy in self._lanes))
        difference = Text.assemble(
            (f"{_difference(self._lanes, now_s)}  ", "bold"),
            (_sparkline(self._differences, width=40), "dodger_blue1"),
        )
        return Group(columns, difference, Text("■ answered  ▶ running  · waiting", style="dim"))

    def _column(self, policy: str, now_s: float) -> RenderableType:
        lane = self._lanes[policy]
        title, color = _TITLES[policy]
        done, total = len(lane.answered), len(lane.requests)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            f"answered {done:>2} of {total}",
            ProgressBar(total=total, completed=done, width=22, complete_style=color),
        )
        head.add_row("mean wait so far", Text(f"{lane.mean_wait_s(now_s):.1f} s", style="bold"))
        strips = Table.grid(padding=(0, 1))
        for app in self._applications:
            strips.add_row(Text(app.name, style="dim", no_wrap=True), _strip(lane, app, color))
        running = [
            Text(f"▶ {_title(r.body)}", no_wrap=True, overflow="ellipsis", style=color)
            for r in lane.running[:4]
        ]
        waiting = lane.waiting
        behind = (
            Text(
                f"{len(waiting)} wait, the first of them: {_title(waiting[0].body)}",
                no_wrap=True,
                overflow="ellipsis",
                style="dim",
            )
            if waiting
            else Text("none waits", style="dim")
        )
        blanks = [Text("")] * (4 - len(running))
        body = Group(head, Text(""), strips, Text(""), *running, *blanks, behind)
        return Panel(body, title=title, title_align="left", border_style=color)


def _strip(lane: LaneProgress, app: Application, color: str) -> Text:
    """Return one mark for each request of an application, in the order of arrival."""
    answered = {r.index for r in lane.answered}
    running = {r.index for r in lane.running}
    marks = Text(no_wrap=True)
    for request in lane.requests:
        if request.kind != app.kind:
            continue
        if request.index in answered:
            marks.append("■", style=color)
        elif request.index in running:
            marks.append("▶", style=color)
        else:
            marks.append("·", style="dim")
    return marks


def _title(body: Mapping[str, object]) -> str:
    """The part of a prompt that distinguishes it: its text without the application's template."""
    messages = body["messages"]
    prompt = str(messages[-1]["content"]) if isinstance(messages, list) else ""
    for app in applications():
        before, _, after = app.template.partition("{}")
        if prompt.startswith(before) and prompt.endswith(after):
            prompt = prompt[len(before) : len(prompt) - len(after)]
            break
    return " ".join(prompt.split())


def _difference(lanes: Mapping[str, LaneProgress], now_s: float) -> str:
    """Say which lane is ahead, and by how much."""
    first, *_, last = lanes.values()
    ahead_s = first.mean_wait_s(now_s) - last.mean_wait_s(now_s)
    return f"short first is {abs(ahead_s):.1f} s {'ahead' if ahead_s >= 0 else 'behind'} on average"


def _sparkline(values: list[float], *, width: int) -> str:
    """Return `width` heights at most, from the start to now; negative differences are lowest."""
    step = max(1, -(-len(values) // width))
    shown = values[::step]
    top = max(max(shown), 1.0)
    return "".join(_BLOCKS[round(max(0.0, v) / top * (len(_BLOCKS) - 1))] for v in shown)
