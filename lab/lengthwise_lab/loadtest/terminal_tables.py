"""Reports as tables for a terminal. Called by `lengthwise bench serve` and `lengthwise demo`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lengthwise_lab.loadtest.measures import Summary
from lengthwise_lab.loadtest.report import Figures, Report
from lengthwise_lab.loadtest.sweep import Sweep

_POINTS = ("mean_s", "p50_s", "p90_s", "p99_s", "max_s")
#: Two bursts of the demo were within 3 % on an idle machine, and 24 % apart on a busy one.
STEADY = 0.85
_HEADS = ("mean", "p50", "p90", "p99", "max")


def render(report: Report) -> Iterator[RenderableType]:
    """Yield the tables and remarks of a report."""
    yield completion_table(report)
    yield _times("Time to first token, s", {n: f.ttft for n, f in report.policies.items()}, None)
    yield _buckets(report)
    yield _work(report)
    yield from (Text(line) for line in remarks(report))


def completion_table(report: Report) -> Table:
    """Return the table of completion times: mean and quantiles of each policy and the oracle."""
    return _times(
        "Completion time, s", {n: f.completion for n, f in report.policies.items()}, report
    )


def render_sweep(sweep: Sweep) -> Iterator[RenderableType]:
    """Yield a table of all steps and seeds, then the pooled report of each step."""
    yield _steps(sweep)
    for step in sweep.steps:
        if step.pooled is not None:
            rate = step.arrivals.rate_per_s
            at = "" if rate is None else f", {rate:.2f} a second"
            yield Text(f"{step.arrivals.kind} arrivals{at}; all seeds together", style="bold")
            yield from render(step.pooled)


def _steps(sweep: Sweep) -> Table:
    """Make a row for each step, seed and policy: ratios to fcfs, share of the oracle's gain."""
    table = Table(title="Ratios to fcfs", title_justify="left", title_style="bold")
    for head in ("load", "seed", "policy"):
        table.add_column(head)
    for head in ("mean", "p50", "p99", "max", "share of the oracle's gain"):
        table.add_column(head, justify="right")
    for step in sweep.steps:
        reports = [(str(report.seed), report) for report in step.seeds]
        if step.pooled is not None and len(step.seeds) > 1:
            reports.append(("all", step.pooled))
        for seed, report in reports:
            load = "burst" if report.offered_load is None else f"{report.offered_load:.2f}"
            for name, ratio in report.ratios.items():
                share = report.oracle_gain_share.get(name)
                points = (f"{ratio[point]:.2f}" for point in ("mean", "p50", "p99", "max"))
                table.add_row(load, seed, name, *points, "-" if share is None else f"{share:.0%}")
    return table


def remarks(report: Report) -> Iterator[str]:
    """Yield remarks on the tables, one sentence each."""
    for name, ratios in report.ratios.items():
        share = report.oracle_gain_share.get(name)
        gained = "" if share is None else f"; that is {share:.0%} of what the oracle gains"
        yield (
            f"{name} / fcfs: mean {ratios['mean']:.2f}, p50 {ratios['p50']:.2f}, "
            f"p99 {ratios['p99']:.2f}, max {ratios['max']:.2f}{gained}."
        )
    yield from _disturbed(report)
    if report.oracle is not None and "oracle" not in report.policies:
        measured = report.policies.get("fcfs")
        beside = (
            f" (measured: {measured.completion.mean_s:.1f} s)"
            if measured is not None and measured.completion is not None
            else ""
        )
        yield (
            f"The oracle is a model that knows every length: {report.oracle.slots} slots, shortest "
            "first, with the measured service times. A check of the model: for fcfs it gives a "
            f"mean of {report.oracle.model_fcfs.mean_s:.1f} s{beside}."
        )
    if report.offered_load is not None:
        yield f"Offered load: {report.offered_load:.2f} of the capacity of {report.slots} slots."
    if report.overhead is not None:
        o = report.overhead
        yield (
            f"First token on an idle system, {o.pairs} pairs: engine alone p50 "
            f"{o.engine_p50_ms:.1f} ms, p90 {o.engine_p90_ms:.1f} ms; through the queue p50 "
            f"{o.path_p50_ms:.1f} ms, p90 {o.path_p90_ms:.1f} ms; added at the median: "
            f"{o.added_p50_ms:.1f} ms."
        )
    for name, figures in report.policies.items():
        if figures.fallbacks and name == "sjf":
            yield (
                f"{figures.fallbacks} of {figures.requests} requests were ordered without a "
                "prediction under sjf: the predictor did not answer in time."
            )
        if figures.failed:
            errors = "; ".join(figures.errors)
            yield f"{figures.failed} of {figures.requests} requests failed under {name}: {errors}"


def _disturbed(report: Report) -> Iterator[str]:
    """Yield a warning if the engine was slower under one policy: a burst is the same work."""
    if report.offered_load is not None:
        return
    speeds = {n: f.tokens_per_s for n, f in report.policies.items() if not f.failed}
    if not speeds:
        return
    by_speed = sorted(speeds, key=speeds.__getitem__)
    slow, fast = by_speed[0], by_speed[-1]
    if speeds[slow] < STEADY * speeds[fast]:
        yield (
            f"The engine did {speeds[fast]:.1f} tokens/s under {fast} and {speeds[slow]:.1f} under "
            f"{slow}. If other programs used the machine, these ratios mean little: measure "
            "again when it is idle."
        )


def _times(title: str, rows: dict[str, Summary | None], report: Report | None) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("policy")
    for head in _HEADS:
        table.add_column(head, justify="right")
    for name, summary in rows.items():
        table.add_row(name, *_cells(summary))
    if report is not None and report.oracle is not None and "oracle" not in rows:
        table.add_row("oracle (model)", *_cells(report.oracle.completion), style="dim")
    return table


def _cells(summary: Summary | None) -> list[str]:
    if summary is None:
        return ["-"] * len(_POINTS)
    return [f"{getattr(summary, point):.2f}" for point in _POINTS]


def _buckets(report: Report) -> Table:
    """Make a table with a row for each bucket and two columns for each policy."""
    table = Table(
        title="Completion time by predicted length, s", title_justify="left", title_style="bold"
    )
    table.add_column("predicted tokens")
    table.add_column("requests", justify="right")
    for name in report.policies:
        table.add_column(f"{name} mean", justify="right")
        table.add_column(f"{name} p99", justify="right")
    columns = [figures.buckets for figures in report.policies.values()]
    for row in zip(*columns, strict=True):
        counts = [b.completion.count for b in row if b.completion is not None]
        cells = [
            cell
            for b in row
            for cell in (
                (f"{b.completion.mean_s:.2f}", f"{b.completion.p99_s:.2f}")
                if b.completion is not None
                else ("-", "-")
            )
        ]
        table.add_row(row[0].predicted_tokens, str(max(counts, default=0)), *cells)
    return table


def _work(report: Report) -> Table:
    table = Table(title="The work", title_justify="left", title_style="bold")
    table.add_column("policy")
    heads = ("requests", "failed", "tokens", "seconds", "tokens/s", "tau-b", "fallbacks")
    for head in heads:
        table.add_column(head, justify="right")
    for name, figures in report.policies.items():
        table.add_row(name, *_work_cells(figures))
    return table


def _work_cells(figures: Figures) -> list[str]:
    return [
        str(figures.requests),
        str(figures.failed),
        str(figures.output_tokens),
        f"{figures.duration_s:.1f}",
        f"{figures.tokens_per_s:.1f}",
        "-" if figures.tau_b is None else f"{figures.tau_b:.2f}",
        str(figures.fallbacks),
    ]
