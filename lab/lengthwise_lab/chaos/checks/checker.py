"""Check a history: report every guarantee that the system violated. Pure.

`python -m lengthwise_lab.chaos.checks.checker HISTORY` checks a history again. Called by run.py at
the end of a run. The checks read nothing but the history. docs/research/chaos.md describes each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from lengthwise_lab.chaos.checks import (
    batch_checks,
    job_checks,
    output_checks,
    promise_checks,
    queue_checks,
    sick_checks,
)
from lengthwise_lab.chaos.checks.report import ChaosReport
from lengthwise_lab.chaos.checks.run_record import RunRecord
from lengthwise_lab.chaos.history import HistoryEvent, read

_CHECKS: tuple[Callable[[RunRecord], None], ...] = (
    job_checks.check_submits,
    job_checks.check_ends,
    job_checks.check_unacknowledged,
    job_checks.check_cancels,
    job_checks.check_due_times,
    job_checks.check_tenants,
    output_checks.check_outputs,
    output_checks.check_views,
    output_checks.check_readers,
    output_checks.check_chats,
    queue_checks.check_pauses,
    queue_checks.check_order,
    queue_checks.check_counters,
    queue_checks.check_exits,
    promise_checks.check_refusals,
    promise_checks.check_settings,
    sick_checks.check_sick_replicas,
    sick_checks.check_sick_failures,
    batch_checks.check_batches,
)


def check(events: Iterable[HistoryEvent]) -> ChaosReport:
    """Check one history, events in order."""
    run = RunRecord(events)
    for one_check in _CHECKS:
        one_check(run)
    return run.report


def main(argv: list[str]) -> int:
    """Check the history file `argv[0]` and print the report. Return the exit status."""
    report = check(read(Path(argv[0])))
    sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
