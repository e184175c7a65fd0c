"""Check the jobs: that each was accepted once, ended as it may, and stayed with its tenant. Pure.

Called by checker.py.
"""

from __future__ import annotations

from lengthwise_lab.chaos.checks import outputs
from lengthwise_lab.chaos.checks.run_record import RunRecord
from lengthwise_lab.chaos.checks.terminal_states import TERMINAL_STATES, wrong_terminal_state

#: A reply may be recorded this long after the read that it is about, ms.
_READ_MS = 10_000.0


def check_submits(run: RunRecord) -> None:
    """Every submit under a key is acknowledged, and always as the same job."""
    for ref, submits in run.submits.items():
        ids = {view["id"] for view in submits.views}
        if submits.key is not None and submits.unknown and not ids:
            run.violated("unanswered", f"{ref} was never acknowledged")
        if len(ids) > 1:
            run.violated("duplicated", f"{ref} was acknowledged as {sorted(ids)}")
    for event in run.by_op["conflict"]:
        if event["type"] == "ok" and event["status"] != 422:
            problem = f"another request under the key of {event['ref']}: {event['status']}"
            run.violated("duplicated", problem)


def check_ends(run: RunRecord) -> None:
    """Every acknowledged job ends, in a state that its request allows."""
    cancel_requested = {e["id"] for e in (*run.by_op["cancel requested"], *run.by_op["left"])}
    for job_id, ref in run.refs.items():
        final = run.final.get(job_id)
        state = None if final is None else final.get("state")
        if final is None or state not in TERMINAL_STATES:
            run.violated("lost", f"{ref} ({job_id}) is {state or 'not found'}")
            continue
        submits = run.submits[ref]
        life = final["accepted_ms"], final["finished_ms"]
        views = submits.views if run.by_due_time(*life) else []
        problems = wrong_terminal_state(
            final, submits.spec, views, cancelled=job_id in cancel_requested
        )
        for problem in problems:
            run.violated("wrong_states", f"{ref} ({job_id}): {problem}")


def check_unacknowledged(run: RunRecord) -> None:
    """A job without an acknowledgement must be one whose reply was lost."""
    stored = {job_id for e in run.by_op["stored"] for job_id in e["ids"]}
    unacknowledged = (stored | run.final.keys()) - run.refs.keys()
    open_refs = {r for r, s in run.submits.items() if (s.unknown or s.refused) and not s.views}
    without_output = 0
    for job_id in sorted(unacknowledged):
        if (state := run.final_state(job_id)) is not None and state not in TERMINAL_STATES:
            run.violated("lost", f"{job_id}, which was not acknowledged, is {state}")
        refs = outputs.refs_of(run.outputs.get(job_id, []))
        if refs and refs <= run.batch_lines.keys():
            continue  # batch_checks.py looks at them
        if not refs:
            without_output += 1
        elif refs <= open_refs:
            open_refs -= refs
            run.report.recovered += 1
        elif refs <= run.submits.keys():
            run.violated("duplicated", f"{job_id} is a second job for {sorted(refs)}")
        else:
            run.violated("unexpected", f"{job_id} answers {sorted(refs)}")
    run.report.recovered += min(without_output, len(open_refs))
    for _ in range(without_output - len(open_refs) - len(run.batch_lines)):
        run.violated("unexpected", "a job without output that no client submitted")


def check_cancels(run: RunRecord) -> None:
    """A job ends in the state that the reply to its cancellation names."""
    for event in run.by_op["cancel"]:
        final = run.final_state(event["id"])
        if event["type"] != "ok" or final not in TERMINAL_STATES:
            continue
        state = event["state"]
        allowed = {state} if state in TERMINAL_STATES else {"cancelled", "expired"}
        if final not in allowed:
            problem = f"{event['ref']}: cancelled when {state}, but it ended {final}"
            run.violated("wrong_states", problem)


def check_due_times(run: RunRecord) -> None:
    """An explained due time follows from its parts as docs/concepts/ordering.md defines."""
    for why in run.by_op["price"]:
        if not run.by_due_time(run.at_ms(why) - _READ_MS, run.at_ms(why)):
            continue
        ref = run.refs.get(why["id"])
        delay_ms = 0 if ref is None else run.submits[ref].spec.get("delay_ms", 0)
        bound, least = why["overtake_bound_ms"], why["overtake_factor"] * why["predicted_ms"]
        if bound < least - max(0.01, 1e-6 * least):
            run.violated("wrong_states", f"{why['id']} has a bound of {bound} ms, below {least}")
        slack = bound + why["class_offset_ms"]
        want = why["accepted_ms"] + delay_ms + slack
        if abs(want - why["due_ms"]) > max(0.01, 1e-6 * slack):
            problem = f"{why['id']} is due at {why['due_ms']}, not at {want:.3f}"
            run.violated("wrong_states", problem)


def check_tenants(run: RunRecord) -> None:
    """A tenant gets 404 for another's job, and a job keeps its tenant."""
    for event in run.by_op["peek"]:
        if event["type"] == "ok" and event["status"] != 404:
            problem = f"{event['by']} asked for {event['id']} and got {event['status']}"
            run.violated("leaked", problem)
    for job_id, ref in run.refs.items():
        want, got = run.submits[ref].spec.get("tenant"), run.final.get(job_id, {})
        if got.get("found") and got["tenant"] != want:
            run.violated("leaked", f"{ref} of {want} became a job of {got['tenant']}")
