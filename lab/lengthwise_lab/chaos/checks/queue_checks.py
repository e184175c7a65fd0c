"""Check the queue and the processes: order, pauses, counters, exit statuses. Pure.

Called by checker.py.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from lengthwise_lab.chaos.checks import overtaking
from lengthwise_lab.chaos.checks.run_record import RunRecord
from lengthwise_lab.chaos.checks.terminal_states import TERMINAL_STATES

#: Exit statuses of a process that was asked to end: 0 after SIGTERM, or a signal of the nemesis,
#: which may come before the process can handle it.
_EXPECTED_EXITS = frozenset({0, -9, -15, -10, -12})


def check_pauses(run: RunRecord) -> None:
    """No job starts while the queue is paused."""
    for pause in (e for e in run.by_op["fault"] if e["kind"] == "pause"):
        for job_id, final in run.final.items():
            started = final.get("started_ms")
            if started is not None and pause["from_ms"] < started < pause["to_ms"]:
                run.violated("started_while_paused", f"{job_id} at {started}")


def check_order(run: RunRecord) -> None:
    """The jobs of a tenant start in the order of their due times, within the bound."""
    offsets = run.settings.get("classes") or {}
    by_tenant: dict[str | None, list[overtaking.WaitingInterval]] = defaultdict(list)
    for job_id, ref in run.refs.items():
        final, submits = run.final.get(job_id), run.submits[ref]
        if final is None or final.get("state") not in TERMINAL_STATES:
            continue
        delay_ms = submits.spec.get("delay_ms", 0)
        since = final["accepted_ms"] + delay_ms
        started = final["started_ms"] is not None
        until = final["started_ms"] if started else final["finished_ms"]
        due_ms = run.due_ms(job_id)
        by_tenant[final["tenant"]].append(
            overtaking.WaitingInterval(
                id=f"{ref} ({job_id})",
                since=since,
                until=until,
                started=started,
                due=-math.inf if due_ms is None else due_ms,
                rank=-math.inf
                if due_ms is None
                else since + offsets.get(submits.spec.get("class"), 0.0),
                sure=delay_ms == 0 and due_ms is not None and run.by_due_time(since, until),
            )
        )
    for intervals in by_tenant.values():
        found = overtaking.find_overtaking(intervals)
        run.report.overtakes += found.overtaken
        run.report.overtakes_unsure += found.unsure
        for check, pairs in (
            ("out_of_order", found.out_of_order),
            ("overtakes_beyond_bound", found.beyond_bound),
        ):
            for behind, ahead in pairs:
                run.violated(check, f"{behind} behind {ahead}")


def check_counters(run: RunRecord) -> None:
    """The queue is empty at the end, and its counters equal the numbers of jobs."""
    all_ended = all(f.get("state") in TERMINAL_STATES for f in run.final.values())
    states = Counter(f.get("state") for f in run.final.values())
    for event in run.by_op["queue"]:
        for name in ("depth", "scheduled", "in_flight"):
            if event[name] and all_ended:
                run.violated("wrong_counts", f"{name} is {event[name]}, but all jobs have ended")
        for state in sorted(TERMINAL_STATES):
            count = event["counters"][state]
            if count != states[state]:
                problem = f"{count} {state} by the counter, {states[state]} jobs"
                run.violated("wrong_counts", problem)


def check_exits(run: RunRecord) -> None:
    """No process ends unless it was asked to."""
    for event in run.by_op["exits"]:
        for status in set(event["statuses"]) - _EXPECTED_EXITS:
            run.violated("crashed", f"{event['process']} ended with status {status}")
