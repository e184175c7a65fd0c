"""The result of a run as JSON and as tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from lengthwise_lab.loadtest.measures import quantile
from lengthwise_lab.queue_bench.library import INSTALL, load
from lengthwise_lab.queue_bench.rounds import Bench, LibraryMeasurements

#: Measured in each round. Their medians are reported.
_COLUMNS = (
    "enqueue_per_s",
    "process_per_s",
    "worker_cpu_us",
    "redis_cpu_us",
    "commands_per_job",
    "enqueue_cpu_us",
    "enqueue_redis_cpu_us",
)


def result_of(measured: LibraryMeasurements) -> dict[str, Any]:
    """Make one library's row: medians, `spread` as [smallest, largest], latency, semantics."""
    row: dict[str, Any] = {"library": measured.library, "version": measured.version}
    if measured.version is None:
        return row | {"installed": False, "install": INSTALL}
    row["installed"] = True
    values = {name: getattr(measured, name) for name in _COLUMNS}
    for name, per_round in values.items():
        row[name] = round(statistics.median(per_round), 1) if per_round else None
    row["rounds"] = len(measured.process_per_s)
    row["spread"] = {name: [round(min(v), 1), round(max(v), 1)] for name, v in values.items() if v}
    waits = measured.waits_ms
    row["start_p50_ms"] = round(quantile(waits, 0.5), 2) if waits else None
    row["start_p99_ms"] = round(quantile(waits, 0.99), 2) if waits else None
    row["commands"] = measured.by_command
    row["semantics"] = load(measured.library).SEMANTICS.as_json()
    row["failures"] = measured.failures
    return row


def as_json(
    bench: Bench, setting: dict[str, Any], depths: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the whole result for `--json`."""
    results = [result_of(m) for m in bench.measured.values()]
    zadd = statistics.median(bench.zadd_per_s) if bench.zadd_per_s else 0.0
    return {
        "results": results,
        "ratios": _ratios(results),
        "yardstick_zadd_per_s": round(zadd, 1),
        "depths": list(depths),
        "setting": setting,
    }


def _ratios(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare Lengthwise with the best other library by column; empty if one side is missing."""
    lengthwise = next((r for r in results if r["library"] == "lengthwise"), {})
    ratios: dict[str, Any] = {}
    for name, choose in (("process_per_s", max), ("enqueue_per_s", max), ("redis_cpu_us", min)):
        others = [r for r in results if r["library"] != "lengthwise" and r.get(name)]
        if others and lengthwise.get(name):
            best_row = choose(others, key=lambda r: float(r[name]))
            ratios[name] = {
                "lengthwise_to_best": round(lengthwise[name] / best_row[name], 2),
                "best_other": best_row["library"],
            }
    return ratios


def render(result: dict[str, Any]) -> list[Table | str]:
    """Make the tables."""
    setting = result["setting"]
    speed = Table(title="No-op jobs through one worker process (medians; range in brackets)")
    for column in (
        "library", "enqueue/s", "process/s", "worker CPU us", "Redis CPU us", "commands",
        "start p50 ms", "start p99 ms",
    ):  # fmt: skip
        speed.add_column(column, justify="left" if column == "library" else "right")
    for row in result["results"]:
        label = f"{row['library']} {row['version'] or ''}".strip()
        if not row["installed"]:
            speed.add_row(label, f"not installed: {row['install']}")
            continue
        low, high = row["spread"].get("process_per_s", (0.0, 0.0))
        speed.add_row(
            label,
            _number(row["enqueue_per_s"]),
            f"{_number(row['process_per_s'])} [{low:,.0f}-{high:,.0f}]",
            _number(row["worker_cpu_us"]),
            _number(row["redis_cpu_us"]),
            _number(row["commands_per_job"], 1),
            _number(row["start_p50_ms"], 2),
            _number(row["start_p99_ms"], 2),
        )
    guarantees = Table(title="What each guarantees with these settings")
    fields = ("acknowledged", "after_a_kill", "retries", "deduplication", "result", "order")
    for column in ("library", *fields, "settings"):
        guarantees.add_column(column.replace("_", " "))
    for row in result["results"]:
        if row["installed"]:
            guarantees.add_row(
                row["library"], *(row["semantics"][f] for f in (*fields, "settings"))
            )
    shown: list[Table | str] = [speed]
    if result["depths"]:
        deep = Table(title="lengthwise: one claim with many waiting jobs")
        for column in ("waiting", "p50 ms", "p99 ms", "max ms", "Redis CPU us", "memory MB"):
            deep.add_column(column, justify="right")
        for row in result["depths"]:
            deep.add_row(
                f"{row['waiting']:,}",
                f"{row['claim_p50_ms']:.2f}",
                f"{row['claim_p99_ms']:.2f}",
                f"{row['claim_max_ms']:.2f}",
                f"{row['claim_redis_cpu_us']:.0f}",
                f"{row['memory_bytes'] / 1e6:,.0f}",
            )
        shown.append(deep)
    shown.append(guarantees)
    shown.append(
        f"pipelined ZADD of this server: {result['yardstick_zadd_per_s']:,.0f}/s; "
        f"{setting['server']}, persistence {setting['persistence']}; "
        f"{setting['rounds']} rounds of {setting['jobs']} jobs, {setting['concurrency']} at once "
        f"in a worker; open loop {setting['paced']} jobs "
        f"at {setting['rate_per_s']:g}/s a round"
    )
    for row in result["results"]:
        shown += [f"{row['library']} failed: {text}" for text in row.get("failures", [])]
    return shown


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
