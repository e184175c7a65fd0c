"""What a checked history says: every promise, and how often it was broken. Pure.

Made by checker.py; printed by `lengthwise bench chaos`, and by cog into docs/research/chaos.md.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

#: Every check, and what one violation of it is. All must be 0.
CHECKS = {
    "lost": "an acknowledged job has no end",
    "unanswered": "a client that asked again and again, under one key, and was never answered",
    "unexpected": "a job, or a call of the engine, that nobody asked for",
    "duplicated": "two jobs under one idempotency key",
    "accepted_twice": "a job that ended more than once, or differently for different readers",
    "stream_gaps": "an output, or what a reader saw of it, that lacks something",
    "stream_repeats": "the same in an output, or to a reader, twice",
    "read_then_gone": "what a reader saw, and is no longer there",
    "stream_mixed": "two calls of the engine, or two jobs, in one attempt's output",
    "overtakes_beyond_bound": "a job behind one that came later than the bound allows",
    "out_of_order": "a job behind one that was due later",
    "leaked": "a tenant saw another's job",
    "started_while_paused": "a job that started while the queue was paused",
    "wrong_states": "an end, a start or a due time that the rules do not allow",
    "internal_errors": "an answer with status 500",
    "crashed": "a process that ended though nobody killed it",
    "wrong_counts": "the queue's counters do not add up to its jobs",
}


@dataclass
class Report:
    """What a history says. `violations`: check -> sentences, one for each violation."""

    jobs: int = 0
    acknowledged: int = 0
    indeterminate: int = 0  #: Submits without any reply, and without a key to ask again with.
    recovered: int = 0  #: Jobs of those submits that were there after all.
    faults: Counter[str] = field(default_factory=Counter)
    faults_not_done: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    executions: int = 0
    executed_more_than_once: int = 0
    chats: int = 0
    chats_repeated: int = 0  #: Those that took more than one try.
    streams_read: int = 0
    reconnects: int = 0
    overtakes: int = 0
    overtakes_unsure: int = 0
    seconds: float = 0.0
    violations: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in CHECKS})

    #: Checks that are reported and allowed: what the durability of the run does not promise.
    tolerated: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """Whether nothing was violated."""
        return not any(
            found for name, found in self.violations.items() if name not in self.tolerated
        )

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "ok": self.ok,
            "jobs": self.jobs,
            "acknowledged": self.acknowledged,
            "indeterminate": self.indeterminate,
            "recovered": self.recovered,
            "faults": sum(self.faults.values()),
            "faults_by_kind": dict(sorted(self.faults.items())),
            "faults_not_done": dict(sorted(self.faults_not_done.items())),
            **{name: len(found) for name, found in self.violations.items()},
            "tolerated": sorted(self.tolerated),
            "states": dict(sorted(self.states.items())),
            "executions": self.executions,
            "executed_more_than_once": self.executed_more_than_once,
            "chats": self.chats,
            "chats_repeated": self.chats_repeated,
            "streams_read": self.streams_read,
            "reconnects": self.reconnects,
            "overtakes": self.overtakes,
            "overtakes_unsure": self.overtakes_unsure,
            "seconds": round(self.seconds, 1),
            "examples": {name: found[:5] for name, found in self.violations.items() if found},
        }
