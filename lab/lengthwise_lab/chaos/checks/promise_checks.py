"""Check what errors promise, and that acknowledged settings are kept. Pure.

Called by checker.py.

An error that answers a request for a job and names no job (no `X-Lengthwise-Job-Id`) promises that
nothing was accepted: no engine is ever called for that request. An error that names a job promises
only what it says about that job. A client that repeats a request and is acknowledged in the end, or
that got no reply to one of its tries, cannot conclude anything from the errors in between.
"""

from __future__ import annotations

from typing import Any

from lengthwise_lab.chaos.checks.run_record import RunRecord, Submits

#: The context that every worker publishes stays in the settings from its first appearance on.
_PUBLISHED = "max_model_len"


def check_refusals(run: RunRecord) -> None:
    """No engine is called for a request that was refused."""
    called = {e["ref"] for e in run.by_op["execute"] if e["type"] == "invoke"}
    for ref, submits in run.submits.items():
        if ref in called and _was_refused(submits):
            last = submits.refused[-1]
            problem = f"{ref} got {last['status']} {last['code']}, and an engine was called for it"
            run.violated("told_not_accepted", problem)


def _was_refused(submits: Submits) -> bool:
    if submits.views or submits.unknown or not submits.refused:
        return False
    return all(event["id"] is None for event in submits.refused)


def check_settings(run: RunRecord) -> None:
    """Whoever reads a setting gets the last value that was acknowledged, or a later one.

    A write without a result may take effect at any time from its request on.
    """
    current: dict[str, Any] = {}  # the last acknowledged values
    open_values: dict[str, list[Any]] = {}  # of writes without a result yet, or for ever
    allowed: dict[str, list[Any]] | None = None  # of the read in progress
    for event in run.by_op["settings"]:
        if event["op"] == "settings":
            if event["type"] == "invoke":
                allowed = {n: [v, *open_values.get(n, ())] for n, v in current.items()}
            elif event["type"] == "ok" and allowed is not None:
                for name, value in event["values"].items():
                    if name in allowed and value not in allowed[name]:
                        problem = f"{name} is {value}, not {current[name]} (t = {event.get('t')})"
                        run.violated("settings_lost", problem)
                if event["values"].get(_PUBLISHED) is not None:
                    current.setdefault(_PUBLISHED, event["values"][_PUBLISHED])
            continue
        for name, value in event["values"].items():
            if event["type"] == "invoke":
                open_values.setdefault(name, []).append(value)
            elif event["type"] != "info":
                open_values[name].remove(value)
            if event["type"] == "ok":
                current[name] = value
            if allowed is not None and name in allowed:
                allowed[name].append(value)
