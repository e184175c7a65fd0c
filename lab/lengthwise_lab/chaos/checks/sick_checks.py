"""Check that a sick replica neither delays nor fails a job that another one can serve. Pure.

Called by checker.py.

A job is in the hands of a sick replica from its first call to a sick engine until an engine that is
well is called for it, or until it ends. The bound on that time follows from the times of the
product (run.py): a silent engine is given up, a dead worker's lease ends, a failed job waits for
its retry. Another replica was free beyond the bound if a healthy one started a job of the same
tenant with a later due time: by the order of the queue the first one was next.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

from lengthwise_lab.chaos.checks.run_record import RunRecord


@dataclass
class _Start:
    """One call of a healthy engine."""

    t: float
    ref: str
    due_ms: float


def check_sick_replicas(run: RunRecord) -> None:
    """No job waits for a sick replica longer than the bound while a healthy one starts others."""
    bound_s, start_ms = run.settings.get("sick_bound_s"), run.settings.get("start_ms")
    if bound_s is None or start_ms is None:
        return
    due = {ref: ms for job_id, ref in run.refs.items() if (ms := run.due_ms(job_id)) is not None}
    starts: dict[str, list[_Start]] = defaultdict(list)  # by tenant
    fell_sick: dict[str, float] = {}
    hands: list[tuple[str, float, float]] = []  # ref, from, until
    for event in run.by_op["execute"]:
        ref = event["ref"]
        if event["type"] != "invoke" or ref not in due:
            continue
        if "sick" in event:
            fell_sick.setdefault(ref, event["t"])
            continue
        starts[run.submits[ref].spec["tenant"]].append(_Start(event["t"], ref, due[ref]))
        if ref in fell_sick:
            hands.append((ref, fell_sick.pop(ref), event["t"]))
    ended = {ref: run.final.get(job_id, {}).get("finished_ms") for job_id, ref in run.refs.items()}
    for ref, since in fell_sick.items():
        end_ms = ended.get(ref)
        hands.append((ref, since, float("inf") if end_ms is None else (end_ms - start_ms) / 1000))
    for ref, since, until in hands:
        run.report.sick_longest_s = max(run.report.sick_longest_s, min(until, 1e6) - since)
        by = _started_after(run, starts[run.submits[ref].spec["tenant"]], since + bound_s, until)
        later = next((start for start in by if start.due_ms > due[ref]), None)
        if later is not None:
            problem = f"{ref} waited {until - since:.1f} s; {later.ref} started {later.t:.1f}"
            run.violated("delayed_by_sick_replica", problem)


def _started_after(
    run: RunRecord, starts: list[_Start], since: float, until: float
) -> list[_Start]:
    """Return the starts between two times, without those under another policy."""
    start_ms = run.settings["start_ms"]
    found = []
    for start in starts[bisect_right(starts, since, key=lambda s: s.t) :]:
        if start.t >= until:
            break
        at_ms = start_ms + start.t * 1000
        if run.by_due_time(at_ms, at_ms):
            found.append(start)
    return found


def check_sick_failures(run: RunRecord) -> None:
    """No job fails that healthy engines answer, because two of its calls met sick ones."""
    sick: dict[str, int] = defaultdict(int)
    calls: dict[str, int] = defaultdict(int)
    for event in run.by_op["execute"]:
        if event["type"] == "invoke":
            calls[event["ref"]] += 1
            sick[event["ref"]] += "sick" in event
    for job_id, ref in run.refs.items():
        spec = run.submits[ref].spec
        if run.final_state(job_id) != "failed" or spec.get("fate") not in ("answered", "flaky"):
            continue
        well = calls[ref] - sick[ref]
        # A single failure at a sick engine cannot be told from one of the job itself.
        if sick[ref] >= 2 and well < spec.get("max_attempts", 1) - 1:
            problem = (
                f"{ref} ({job_id}) failed: {sick[ref]} of its {calls[ref]} calls met sick ones"
            )
            run.violated("failed_by_sick_replica", problem)
