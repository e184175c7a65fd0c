"""Index a history for the checks: the submits by job, the other events by operation. Pure.

Called by checker.py.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lengthwise_lab.chaos.checks.report import ChaosReport
from lengthwise_lab.chaos.history import HistoryEvent

#: How long a policy may be in force after it was replaced, ms: services keep settings for a second.
#: A due time that is read meanwhile is that of the other policy.
_POLICY_LAG_MS = 1500.0


@dataclass
class Submits:
    """All submits of one ref."""

    spec: dict[str, Any]
    key: str | None
    views: list[HistoryEvent] = field(default_factory=list)  #: The acknowledgements.
    unknown: int = 0  #: Submits without a reply.
    refused: list[HistoryEvent] = field(default_factory=list)  #: Replies with an error.


class RunRecord:
    """The events of one history, indexed, and the report that the checks fill in."""

    def __init__(self, events: Iterable[HistoryEvent]) -> None:
        self.report = ChaosReport()
        self.submits: dict[str, Submits] = {}  #: By ref.
        self.by_op: dict[str, list[HistoryEvent]] = defaultdict(list)
        self.settings: dict[str, Any] = {}
        self.batch_lines: dict[str, HistoryEvent] = {}  #: Ref -> the batch with this line.
        for event in events:
            self._add(event)
        #: Job id -> ref, of the acknowledged jobs.
        self.refs = {v["id"]: ref for ref, s in self.submits.items() for v in s.views}
        #: Job id -> its record at the end.
        self.final = {e["id"]: e for e in self.by_op["final"]}
        #: Job id -> the entries of its output at the end.
        self.outputs = {e["id"]: e["entries"] for e in self.by_op["output"]}
        #: When another policy was in force, ms since the epoch: from, to.
        self.other_policy = [
            (fault["from_ms"], fault["to_ms"] + _POLICY_LAG_MS)
            for fault in self.by_op["fault"]
            if fault["kind"] == "queue_policy"
        ]
        self._count()

    def by_due_time(self, from_ms: float, to_ms: float) -> bool:
        """Whether the queue was served by due time for the whole of an interval."""
        return not any(from_ms < end and start < to_ms for start, end in self.other_policy)

    def due_ms(self, job_id: str) -> float | None:
        """Return the due time of an acknowledged job by the policy of the run; None: unknown.

        Another policy gives the waiting jobs other due times, and takes them back at its end.
        """
        final = self.final.get(job_id, {})
        if not final.get("found"):
            return None
        accepted_ms = final["accepted_ms"]
        for view in self.submits[self.refs[job_id]].views:
            if self.by_due_time(accepted_ms, self.at_ms(view)):
                return float(view["due_ms"])
        if self.by_due_time(accepted_ms, final["finished_ms"] or math.inf):
            return float(final["due_ms"])
        return None

    def at_ms(self, event: HistoryEvent) -> float:
        """Return when an event was recorded, ms since the epoch."""
        return float(self.settings.get("start_ms", 0.0) + event.get("t", 0.0) * 1000)

    def violated(self, check: str, what: str) -> None:
        """Add a violation to the report."""
        self.report.violations[check].append(what)

    def final_state(self, job_id: str) -> str | None:
        """Return the state of a job at the end; None: the job was not found."""
        state: str | None = self.final.get(job_id, {}).get("state")
        return state

    def _add(self, event: HistoryEvent) -> None:
        op, kind = event["op"], event["type"]
        self.report.seconds = event.get("t", 0.0)
        if op == "run":
            self.settings = event
            self.report.jobs = event["jobs"]
            if event.get("sizes", {}).get("durability") == "replica":
                # Output is visible before a replica has it, so that a crash may lose it.
                self.report.tolerated = frozenset({"read_then_gone"})
        elif op == "submit":
            submits = self.submits.setdefault(
                event["ref"], Submits(event.get("spec") or {}, event["key"])
            )
            if kind == "ok":
                submits.views.append(event)
            submits.unknown += kind == "info"
        elif op == "refused":
            self.submits[event["ref"]].refused.append(event)
        elif op == "left":
            self.submits[event["ref"]].unknown += event["id"] is None
            self.by_op[op].append(event)
        elif op == "batch" and kind == "invoke":
            self.batch_lines |= dict.fromkeys(event["lines"], event)
            self.by_op["batch submitted"].append(event)
        elif op in ("setting", "settings"):
            self.by_op["settings"].append(event)
        elif op == "fault" and kind == "ok":
            self.report.faults[event["kind"]] += 1
            self.by_op["fault"].append(event)
        elif op == "fault" and kind == "fail":
            self.report.faults_not_done[event["kind"]] += 1
        elif op in ("read", "view") or kind != "invoke" or op == "execute":
            self.by_op[op].append(event)
        elif op == "cancel":
            self.by_op["cancel requested"].append(event)

    def _count(self) -> None:
        report, by_op = self.report, self.by_op
        report.acknowledged = len(self.refs)
        report.indeterminate = sum(bool(s.unknown and not s.views) for s in self.submits.values())
        calls = Counter(e["ref"] for e in by_op["execute"] if e["type"] == "invoke")
        report.executions = calls.total()
        report.executed_more_than_once = sum(n > 1 for n in calls.values())
        report.left = len(by_op["left"])
        report.refusals = sum(len(s.refused) for s in self.submits.values())
        report.settings_written = sum(
            e["op"] == "setting" and e["type"] == "ok" for e in by_op["settings"]
        )
        report.sick_calls = sum("sick" in e for e in by_op["execute"])
        report.chats = len(by_op["chat"])
        report.chats_repeated = sum(e["tries"] > 1 for e in by_op["chat"])
        report.streams_read = len(by_op["read"])
        report.reconnects = sum(e["connections"] - 1 for e in by_op["read"])
        report.states = Counter(str(e.get("state", "not found")) for e in self.final.values())
        for event in by_op["internal_error"]:
            self.violated("internal_errors", event["where"])
        report.batches = len(by_op["batch submitted"])
        for ref in calls.keys() - self.submits.keys() - self.batch_lines.keys():
            self.violated("unexpected", f"the engine was called for {ref}, which was not submitted")
