"""The end of `lengthwise demo`: tables, one sentence in plain words, and what to try next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lengthwise_lab.loadtest.applications import ApplicationTimes, times_by_application
from lengthwise_lab.loadtest.compare import PolicyRun
from lengthwise_lab.loadtest.report import Report
from lengthwise_lab.loadtest.terminal_tables import completion_table, remarks
from lengthwise_lab.loadtest.workload import TimedRequest


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a race showed beyond its report.

    Attributes:
        applications: The means of each application.
        first_answer_s: When the first answer of any lane was complete, s after the start.
    """

    applications: list[ApplicationTimes]
    first_answer_s: float

    @classmethod
    def of(cls, runs: Sequence[PolicyRun], requests: Sequence[TimedRequest]) -> Summary:
        """Summarize the runs of a race."""
        ends = [s.completion_s for run in runs for s in run.samples if s.completion_s is not None]
        return cls(
            applications=times_by_application(runs, requests),
            first_answer_s=min(ends, default=0.0),
        )

    def as_json(self) -> list[dict[str, Any]]:
        """Return one object for each application."""
        return [asdict(times) for times in self.applications]


def print_summary(
    console: Console, summary: Summary, report: Report, *, seconds: float, out: Path
) -> None:
    """Print the results of a race."""
    console.print()
    console.print(completion_table(report))
    console.print(_applications(summary.applications))
    for remark in remarks(report):
        console.print(remark, markup=False)
    console.print()
    console.print(sentence(report, summary.applications), style="bold", markup=False)
    console.print(
        f"\nThe demo took {seconds:.0f} s. It wrote {out / 'chart.png'}, the picture, and"
    )
    console.print(f"{out / 'result.json'}, every figure. Try next:\n")
    console.print(_NEXT, markup=False)


_NEXT = """\
  lengthwise up                       serve this LLM on http://127.0.0.1:8080, for any OpenAI client
  lengthwise up --engine vllm --engine-url http://HOST:8000
                                      the same in front of your own vLLM
  lengthwise doctor                   what this machine has, and what is missing
  docs/get-started/kubernetes.md      on Kubernetes: one chart, one manifest for each model"""


def sentence(report: Report, applications: Sequence[ApplicationTimes]) -> str:
    """Say in plain words what the order changed, the losers included."""
    both = [report.policies[name].completion for name in ("fcfs", "sjf")]
    if both[0] is None or both[1] is None or not applications:
        return "There are not enough answers to compare the two orders."
    change = 1 - both[1].mean_s / both[0].mean_s
    first, last = applications[0], applications[-1]
    return (
        f"With short answers first, an answer took {both[1].mean_s:.0f} s on average instead of "
        f"{both[0].mean_s:.0f} s ({abs(change):.0%} {'less' if change >= 0 else 'more'}), on the "
        f"same machine with the same work: {_told(first)}, and {_told(last)}."
    )


def _told(times: ApplicationTimes) -> str:
    return f'"{times.name}" {times.mean_s["sjf"]:.0f} s instead of {times.mean_s["fcfs"]:.0f} s'


def _applications(applications: Sequence[ApplicationTimes]) -> Table:
    table = Table(title="Mean by application, s", title_justify="left", title_style="bold")
    table.add_column("application")
    for head in ("requests", "tokens (median)", "fcfs", "sjf", "ratio"):
        table.add_column(head, justify="right")
    for times in applications:
        fcfs_s, sjf_s = times.mean_s["fcfs"], times.mean_s["sjf"]
        cells = (f"{times.median_tokens:.0f}", f"{fcfs_s:.1f}", f"{sjf_s:.1f}")
        table.add_row(times.name, str(times.requests), *cells, f"{sjf_s / fcfs_s:.2f}")
    return table
