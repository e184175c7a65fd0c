"""The report of a chaos run: every guarantee, and how often it was violated. Pure.

Filled in by the checks. `lengthwise bench chaos` prints it, and cog prints `CHECKS` into
docs/research/chaos.md.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

#: Check -> what one violation of it is. All must be 0.
CHECKS = {
    "lost": "an acknowledged job did not end",
    "unanswered": "a client that repeated a request under one key and never got a reply",
    "unexpected": "a job, or an engine call, that no client submitted",
    "duplicated": "two jobs under one idempotency key",
    "accepted_twice": "a job that ended more than once, or differently for different readers",
    "foreign_answers": "an accepted answer that is none, as HTML or bytes of a sick engine",
    "stream_gaps": "an output, or what a reader saw of it, with missing entries",
    "stream_repeats": "an entry that an output has, or a reader saw, twice",
    "read_then_gone": "an entry that a reader saw and that no longer exists",
    "stream_mixed": "two engine calls, or two jobs, in one attempt's output",
    "overtakes_beyond_bound": "a job overtaken by one that came later than the bound allows",
    "out_of_order": "a job overtaken by one with a later due time",
    "leaked": "a tenant saw another's job",
    "started_while_paused": "a job that started while the queue was paused",
    "wrong_states": "a terminal state, a start or a due time that the rules do not allow",
    "told_not_accepted": "an error named no job, and a job of that request ran",
    "delayed_by_sick_replica": "a job waited for a sick engine although another replica was free",
    "failed_by_sick_replica": "a job failed because of a sick engine, though others answer it",
    "batches_wrong": "a batch that did not end, or a line without exactly one right result",
    "settings_lost": "a setting that was acknowledged, and was not read afterwards",
    "internal_errors": "a response with status 500",
    "crashed": "a process that ended although it was not killed",
    "wrong_counts": "counters of the queue that differ from its jobs",
}


@dataclass
class ChaosReport:
    """The result of the checks. `violations`: check -> sentences, one for each violation."""

    jobs: int = 0
    acknowledged: int = 0
    indeterminate: int = 0  #: Submits without a reply and without a key to repeat them under.
    recovered: int = 0  #: Jobs of those submits that exist.
    faults: Counter[str] = field(default_factory=Counter)
    faults_not_done: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    executions: int = 0
    executed_more_than_once: int = 0
    sick_longest_s: float = 0.0  #: The longest time that a sick engine had a job.
    sick_calls: int = 0  #: Engine calls that a sick engine got.
    refusals: int = 0  #: Errors that answered a submit.
    left: int = 0  #: Clients without a key that left before they had an answer.
    batches: int = 0
    batch_lines_failed: int = 0
    settings_written: int = 0
    chats: int = 0
    chats_repeated: int = 0  #: Chats that needed more than one try.
    streams_read: int = 0
    reconnects: int = 0
    overtakes: int = 0
    overtakes_unsure: int = 0
    seconds: float = 0.0
    violations: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in CHECKS})

    #: Checks whose violations are allowed: the durability of the run does not guarantee them.
    tolerated: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """Whether no guarantee was violated."""
        return not any(
            found for name, found in self.violations.items() if name not in self.tolerated
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report for `--json`."""
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
            "sick_calls": self.sick_calls,
            "sick_longest_s": round(self.sick_longest_s, 1),
            "refusals": self.refusals,
            "left": self.left,
            "batches": self.batches,
            "batch_lines_failed": self.batch_lines_failed,
            "settings_written": self.settings_written,
            "chats": self.chats,
            "chats_repeated": self.chats_repeated,
            "streams_read": self.streams_read,
            "reconnects": self.reconnects,
            "overtakes": self.overtakes,
            "overtakes_unsure": self.overtakes_unsure,
            "seconds": round(self.seconds, 1),
            "examples": {name: found[:5] for name, found in self.violations.items() if found},
        }
