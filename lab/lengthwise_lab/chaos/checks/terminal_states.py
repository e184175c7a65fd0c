"""Whether a job ended as it may: by its fate, its attempts, its delay and its deadline. Pure.

Called by checker.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lengthwise_lab.chaos.history import Event

#: States that are ends.
ENDS = frozenset({"succeeded", "failed", "cancelled", "expired"})


def wrong_end(
    final: Event, spec: Mapping[str, Any], told: Sequence[Event], *, cancelled: bool
) -> list[str]:
    """What is wrong with how, or when, a job ended.

    Args:
        final: Its record at the end, in a state that is one of `ENDS`.
        spec: What its client asked for.
        told: The acknowledgements of its submit.
        cancelled: Whether somebody asked to withdraw it.
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
        found.append("cancelled, though nobody asked for it")
    if state == "expired" and final["finished_ms"] < deadline - 1:
        found.append("expired before its deadline")
    if final["started_ms"] is not None:
        if final["started_ms"] > deadline + 1:
            found.append("started after its deadline")
        if final["started_ms"] < since - 1:
            found.append("started before its delay was over")
    if any(abs(view["due_ms"] - final["due_ms"]) > 0.01 for view in told):
        found.append("its due time changed")
    return found
