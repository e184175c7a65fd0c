"""Reads a history and says whether the system kept its promises. Pure; it knows nothing else.

`python -m lengthwise_lab.chaos.checker HISTORY` checks one anew. Called by run.py at the end of
a run. What each check means is told in docs/chaos.md.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lengthwise_lab.chaos import outputs, overtaking
from lengthwise_lab.chaos.history import Event, read

#: States that are ends.
_ENDS = frozenset({"succeeded", "failed", "cancelled", "expired"})

#: Exit statuses of a process that did as it was told: SIGTERM, and kill -9.
_TOLD_TO_END = frozenset({0, -9})

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
            "streams_read": self.streams_read,
            "reconnects": self.reconnects,
            "overtakes": self.overtakes,
            "overtakes_unsure": self.overtakes_unsure,
            "seconds": round(self.seconds, 1),
            "examples": {name: found[:5] for name, found in self.violations.items() if found},
        }


def check(events: Iterable[Event]) -> Report:
    """Check one history, events in order."""
    return _Checker(events).report


@dataclass
class _Submits:
    """All that was said about one ref."""

    spec: dict[str, Any]
    key: str | None
    views: list[Event] = field(default_factory=list)  #: The acknowledgements.
    unknown: int = 0  #: Submits without a reply.


class _Checker:
    def __init__(self, events: Iterable[Event]) -> None:
        self.report = Report()
        self._asked: dict[str, _Submits] = {}
        self._by_op: dict[str, list[Event]] = defaultdict(list)
        self._settings: dict[str, Any] = {}
        for event in events:
            self._note(event)
        self._ref = {v["id"]: ref for ref, s in self._asked.items() for v in s.views}
        self._final = {e["id"]: e for e in self._by_op["final"]}
        self._output = {e["id"]: e["entries"] for e in self._by_op["output"]}
        self._count()
        self._check_submits()
        self._check_ends()
        self._check_strangers()
        self._check_outputs()
        self._check_cancels()
        self._check_prices()
        self._check_tenants()
        self._check_pauses()
        self._check_order()
        self._check_counters()
        self._check_exits()

    def _violated(self, name: str, what: str) -> None:
        self.report.violations[name].append(what)

    # ------------------------------------------------------------------ reading

    def _note(self, event: Event) -> None:
        op, kind = event["op"], event["type"]
        self.report.seconds = event.get("t", 0.0)
        if op == "run":
            self._settings = event
            self.report.jobs = event["jobs"]
            if event.get("sizes", {}).get("durability") == "replica":
                # Output is shown as it comes; a crash may take what no replica had.
                self.report.tolerated = frozenset({"read_then_gone"})
        elif op == "submit":
            known = self._asked.setdefault(
                event["ref"], _Submits(event.get("spec") or {}, event["key"])
            )
            if kind == "ok":
                known.views.append(event)
            known.unknown += kind == "info"
        elif op == "fault" and kind == "ok":
            self.report.faults[event["kind"]] += 1
            self._by_op["fault"].append(event)
        elif op == "fault" and kind == "fail":
            self.report.faults_not_done[event["kind"]] += 1
        elif op in ("read", "view") or kind != "invoke" or op == "execute":
            self._by_op[op].append(event)
        elif op == "cancel":
            self._by_op["cancel asked"].append(event)

    def _count(self) -> None:
        report = self.report
        report.acknowledged = len(self._ref)
        report.indeterminate = sum(bool(s.unknown and not s.views) for s in self._asked.values())
        calls = Counter(e["ref"] for e in self._by_op["execute"] if e["type"] == "invoke")
        report.executions = calls.total()
        report.executed_more_than_once = sum(n > 1 for n in calls.values())
        report.streams_read = len(self._by_op["read"])
        report.reconnects = sum(e["visits"] - 1 for e in self._by_op["read"])
        report.states = Counter(str(e.get("state", "not found")) for e in self._final.values())
        for ref in calls.keys() - self._asked.keys():
            self._violated("unexpected", f"the engine was called for {ref}, which nobody asked for")

    # ------------------------------------------------------------------ checks

    def _check_submits(self) -> None:
        for ref, submits in self._asked.items():
            ids = {view["id"] for view in submits.views}
            if submits.key is not None and submits.unknown and not ids:
                self._violated("unanswered", f"{ref} was never acknowledged")
            if len(ids) > 1:
                self._violated("duplicated", f"{ref} was acknowledged as {sorted(ids)}")
        for event in self._by_op["conflict"]:
            if event["type"] == "ok" and event["status"] != 422:
                said = event["status"]
                self._violated(
                    "duplicated", f"another request under the key of {event['ref']}: {said}"
                )

    def _check_ends(self) -> None:
        asked_to_cancel = {e["id"] for e in self._by_op["cancel asked"]}
        for job_id, ref in self._ref.items():
            final = self._final.get(job_id)
            state = None if final is None else final.get("state")
            if final is None or state not in _ENDS:
                self._violated("lost", f"{ref} ({job_id}) is {state or 'not to be found'}")
                continue
            submits = self._asked[ref]
            for problem in _wrong_end(final, submits, cancelled=job_id in asked_to_cancel):
                self._violated("wrong_states", f"{ref} ({job_id}): {problem}")

    def _check_strangers(self) -> None:
        """Jobs that nobody has an acknowledgement of: each must be one whose reply was lost."""
        stored = {job_id for e in self._by_op["stored"] for job_id in e["ids"]}
        strangers = (stored | self._final.keys()) - self._ref.keys()
        open_refs = {r for r, s in self._asked.items() if s.unknown and not s.views}
        silent = 0
        for job_id in sorted(strangers):
            refs = {
                piece.ref
                for entry in self._output.get(job_id, [])
                if entry[1] == "chunk" and (piece := outputs.pieces_of(entry))
            }
            if not refs:
                silent += 1
            elif refs <= open_refs:
                open_refs -= refs
                self.report.recovered += 1
            elif refs <= self._asked.keys():
                self._violated("duplicated", f"{job_id} is a second job for {sorted(refs)}")
            else:
                self._violated("unexpected", f"{job_id} answers {sorted(refs)}")
        self.report.recovered += min(silent, len(open_refs))
        for _ in range(silent - len(open_refs)):
            self._violated("unexpected", "a job that is nobody's, and that has no output")

    def _check_outputs(self) -> None:
        for job_id, entries in self._output.items():
            flaws = outputs.look_at(entries, self._ref.get(job_id))
            self._take(flaws, job_id)
            state = self._final.get(job_id, {}).get("state")
            if state in _ENDS and entries and entries[-1][1] == "end" and entries[-1][2] != state:
                self._violated(
                    "accepted_twice", f"{job_id} is {state}, its output says {entries[-1][2]}"
                )
        for job_id, final in self._final.items():
            if final.get("state") in _ENDS and job_id not in self._output:
                self._violated("stream_gaps", f"{job_id}: its output cannot be read")
        for event in self._by_op["view"]:
            job_id, state = event["id"], self._final.get(event["id"], {}).get("state")
            if event["type"] != "ok" or event["state"] != state:
                said = event.get("state") or f"status {event.get('status')}"
                self._violated("accepted_twice", f"{job_id} is {state}, the service says {said}")
            elif state == "succeeded" and event["text"] != _last_text(self._output.get(job_id, [])):
                self._violated("stream_gaps", f"{job_id}: its response is not its output")
        for event in self._by_op["read"]:
            whole = self._output.get(event["id"])
            if whole is not None:
                seen = event["entries"]
                self._take(outputs.compare(seen, whole, ended=event["type"] == "ok"), event["id"])
                if seen and whole and seen[-1][1] == "end" and seen[-1] != whole[-1]:
                    self._violated("accepted_twice", f"{event['id']}: a reader saw another end")

    def _take(self, flaws: outputs.Flaws, job_id: str) -> None:
        for name, found in (
            ("stream_gaps", flaws.gaps),
            ("stream_repeats", flaws.repeats),
            ("stream_mixed", flaws.mixed),
            ("read_then_gone", flaws.gone),
            ("accepted_twice", flaws.ends),
        ):
            if found:
                self._violated(name, f"{self._ref.get(job_id, '?')} ({job_id}): {found[0]}")

    def _check_cancels(self) -> None:
        for event in self._by_op["cancel"]:
            final = self._final.get(event["id"], {}).get("state")
            if event["type"] != "ok" or final not in _ENDS:
                continue
            said = event["state"]
            allowed = {said} if said in _ENDS else {"cancelled", "expired"}
            if final not in allowed:
                self._violated(
                    "wrong_states", f"{event['ref']}: cancelled when {said}, but it ended {final}"
                )

    def _check_prices(self) -> None:
        """A due time is what docs/ordering.md says, where a client asked why."""
        for why in self._by_op["price"]:
            ref = self._ref.get(why["id"])
            delay_ms = 0 if ref is None else self._asked[ref].spec.get("delay_ms", 0)
            slack = why["overtake_factor"] * why["predicted_ms"] + why["class_offset_ms"]
            want = why["accepted_ms"] + delay_ms + slack
            if abs(want - why["due_ms"]) > max(0.01, 1e-6 * slack):
                self._violated(
                    "wrong_states", f"{why['id']} is due at {why['due_ms']}, not at {want:.3f}"
                )

    def _check_tenants(self) -> None:
        for event in self._by_op["peek"]:
            if event["type"] == "ok" and event["status"] != 404:
                self._violated(
                    "leaked", f"{event['by']} asked for {event['id']} and got {event['status']}"
                )
        for job_id, ref in self._ref.items():
            want, got = self._asked[ref].spec.get("tenant"), self._final.get(job_id, {})
            if got.get("found") and got["tenant"] != want:
                self._violated("leaked", f"{ref} of {want} became a job of {got['tenant']}")

    def _check_pauses(self) -> None:
        for pause in (e for e in self._by_op["fault"] if e["kind"] == "pause"):
            for job_id, final in self._final.items():
                started = final.get("started_ms")
                if started is not None and pause["from_ms"] < started < pause["to_ms"]:
                    self._violated("started_while_paused", f"{job_id} at {started}")

    def _check_order(self) -> None:
        offsets = self._settings.get("classes") or {}
        lines: dict[str | None, list[overtaking.Stay]] = defaultdict(list)
        for job_id, ref in self._ref.items():
            final, submits = self._final.get(job_id), self._asked[ref]
            if final is None or final.get("state") not in _ENDS:
                continue
            delay_ms = submits.spec.get("delay_ms", 0)
            since = final["accepted_ms"] + delay_ms
            started = final["started_ms"] is not None
            lines[final["tenant"]].append(
                overtaking.Stay(
                    id=f"{ref} ({job_id})",
                    since=since,
                    until=final["started_ms"] if started else final["finished_ms"],
                    started=started,
                    due=submits.views[0]["due_ms"],
                    rank=since + offsets.get(submits.spec.get("class"), 0.0),
                    sure=delay_ms == 0,
                )
            )
        for stays in lines.values():
            found = overtaking.judge(stays)
            self.report.overtakes += found.overtaken
            self.report.overtakes_unsure += found.unsure
            for name, pairs in (
                ("out_of_order", found.out_of_order),
                ("overtakes_beyond_bound", found.beyond_bound),
            ):
                for behind, ahead in pairs:
                    self._violated(name, f"{behind} behind {ahead}")

    def _check_counters(self) -> None:
        for event in self._by_op["queue"]:
            for name in ("depth", "scheduled", "in_flight"):
                if event[name] and all(f.get("state") in _ENDS for f in self._final.values()):
                    self._violated("wrong_counts", f"{name} is {event[name]}, but all have ended")
            states = Counter(f.get("state") for f in self._final.values())
            for state in sorted(_ENDS):
                if event["counters"][state] != states[state]:
                    self._violated(
                        "wrong_counts",
                        f"{event['counters'][state]} {state} by the counter, {states[state]} jobs",
                    )

    def _check_exits(self) -> None:
        for event in self._by_op["exits"]:
            for status in set(event["statuses"]) - _TOLD_TO_END:
                self._violated("crashed", f"{event['process']} ended with status {status}")


def _wrong_end(final: Event, submits: _Submits, *, cancelled: bool) -> list[str]:
    """What is wrong with how, or when, a job ended."""
    spec, state, found = submits.spec, final["state"], []
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
    if any(abs(view["due_ms"] - final["due_ms"]) > 0.01 for view in submits.views):
        found.append("its due time changed")
    return found


def _last_text(entries: list[outputs.Entry]) -> str:
    """The text of the last attempt."""
    text = ""
    for entry in entries:
        if entry[1] == "attempt":
            text = ""
        elif entry[1] == "chunk":
            text += entry[2]
    return text


def main(argv: list[str]) -> int:
    """Check the history that is named; the exit status."""
    report = check(read(Path(argv[0])))
    sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
