"""Check how and when a job ended, by its fate, attempts, delay and deadline. Pure.

Called by job_checks.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lengthwise_lab.chaos.history import HistoryEvent

#: The states in which a job stays.
TERMINAL_STATES = frozenset({"succeeded", "failed", "cancelled", "expired"})


def wrong_terminal_state(
    final: HistoryEvent, spec: Mapping[str, Any], views: Sequence[HistoryEvent], *, cancelled: bool
) -> list[str]:
    """Return what is wrong with the end of a job, a sentence each.

    Args:
        final: Its record at the end, in one of `TERMINAL_STATES`.
        spec: The options of its submit.
        views: The acknowledgements of its submit.
        cancelled: Whether a client cancelled it.
    """
    state, found = final["state"], []
    fate, attempt = spec.get("fate", "answered"), final["attempt"]
    since = final["accepted_ms"] + spec.get("delay_ms", 0)
    deadline = since + spec.get("ttl_ms", float("inf"))
    if state == "succeeded" and fate not in ("answered", "flaky"):
        found.append(f"succeeded, though the engine never answers it ({fate})")
    if state == "failed":
        used_up = attempt >= spec.get("max_attempts", 1)
        if not (used_up or (fate == "refused" and final["error"] == "engine_refused")):
            found.append(f"failed after {attempt} attempts, with {final['error']}")
    if state == "cancelled" and not cancelled:
        found.append("cancelled, though no client cancelled it")
    if state == "expired" and final["finished_ms"] < deadline - 1:
        found.append("expired before its deadline")
    if final["started_ms"] is not None:
        if final["started_ms"] > deadline + 1:
            found.append("started after its deadline")
        if final["started_ms"] < since - 1:
            found.append("started before its delay was over")
    if any(abs(view["due_ms"] - final["due_ms"]) > 0.01 for view in views):
        found.append("its due time changed")
    return found
