"""Index a history for the checks: the submits by job, the other events by operation. Pure.

Called by checker.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lengthwise_lab.chaos.checks.report import ChaosReport
from lengthwise_lab.chaos.history import HistoryEvent


@dataclass
class Submits:
    """All submits of one ref."""

    spec: dict[str, Any]
    key: str | None
    views: list[HistoryEvent] = field(default_factory=list)  #: The acknowledgements.
    unknown: int = 0  #: Submits without a reply.


class RunRecord:
    """The events of one history, indexed, and the report that the checks fill in."""

    def __init__(self, events: Iterable[HistoryEvent]) -> None:
        self.report = ChaosReport()
        self.submits: dict[str, Submits] = {}  #: By ref.
        self.by_op: dict[str, list[HistoryEvent]] = defaultdict(list)
        self.settings: dict[str, Any] = {}
        for event in events:
            self._add(event)
        #: Job id -> ref, of the acknowledged jobs.
        self.refs = {v["id"]: ref for ref, s in self.submits.items() for v in s.views}
        #: Job id -> its record at the end.
        self.final = {e["id"]: e for e in self.by_op["final"]}
        #: Job id -> the entries of its output at the end.
        self.outputs = {e["id"]: e["entries"] for e in self.by_op["output"]}
        self._count()

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
        report.chats = len(by_op["chat"])
        report.chats_repeated = sum(e["tries"] > 1 for e in by_op["chat"])
        report.streams_read = len(by_op["read"])
        report.reconnects = sum(e["connections"] - 1 for e in by_op["read"])
        report.states = Counter(str(e.get("state", "not found")) for e in self.final.values())
        for event in by_op["internal_error"]:
            self.violated("internal_errors", event["where"])
        for ref in calls.keys() - self.submits.keys():
            self.violated("unexpected", f"the engine was called for {ref}, which was not submitted")
