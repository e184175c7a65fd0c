"""Reads a history and says whether the system kept its promises. Pure; it knows nothing else.

`python -m lengthwise_lab.chaos.checks.checker HISTORY` checks one anew. Called by run.py at the end of
a run. What each check means is told in docs/research/chaos.md.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lengthwise_lab.chaos.checks import overtaking
from lengthwise_lab.chaos.checks import outputs
from lengthwise_lab.chaos.checks.terminal_states import ENDS, wrong_end
from lengthwise_lab.chaos.history import Event, read
from lengthwise_lab.chaos.checks.report import Report

#: Exit statuses of a process that ended because it was told to: 0 after SIGTERM, or one of the
#: nemesis's signals itself, which may come before a process is ready to handle it.
_TOLD_TO_END = frozenset({0, -9, -15, -10, -12})


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
        self._check_chats()
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
        report.chats = len(self._by_op["chat"])
        report.chats_repeated = sum(e["tries"] > 1 for e in self._by_op["chat"])
        report.streams_read = len(self._by_op["read"])
        report.reconnects = sum(e["visits"] - 1 for e in self._by_op["read"])
        report.states = Counter(str(e.get("state", "not found")) for e in self._final.values())
        for event in self._by_op["internal_error"]:
            self._violated("internal_errors", event["where"])
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
            if final is None or state not in ENDS:
                self._violated("lost", f"{ref} ({job_id}) is {state or 'not to be found'}")
                continue
            submits = self._asked[ref]
            cancelled = job_id in asked_to_cancel
            for problem in wrong_end(final, submits.spec, submits.views, cancelled=cancelled):
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
            if state in ENDS and entries and entries[-1][1] == "end" and entries[-1][2] != state:
                self._violated(
                    "accepted_twice", f"{job_id} is {state}, its output says {entries[-1][2]}"
                )
        for job_id, final in self._final.items():
            if final.get("state") in ENDS and job_id not in self._output:
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
                known = {entry[0] for entry in whole}  # an end that is gone is `read_then_gone`
                if seen and seen[-1][1] == "end" and seen[-1][0] in known and seen[-1] != whole[-1]:
                    self._violated("accepted_twice", f"{event['id']}: a reader saw another end")

    def _check_chats(self) -> None:
        """An OpenAI client gets the whole answer of one attempt, or none where there is none."""
        for chat in self._by_op["chat"]:
            job_id = chat["id"]
            state = self._final.get(job_id, {}).get("state")
            if chat["type"] == "info":
                self._violated("unanswered", f"{chat['ref']} asked {chat['tries']} times")
            elif (chat["type"] == "ok") != (state == "succeeded"):
                self._violated("accepted_twice", f"{job_id} is {state}, a chat heard otherwise")
            elif chat["type"] == "ok" and chat["text"] != _last_text(self._output.get(job_id, [])):
                # A whole answer that is another one was given by a server that is gone.
                name = "read_then_gone" if outputs.is_whole(chat["text"]) else "stream_gaps"
                self._violated(name, f"{job_id}: a chat heard {chat['text'][:80]!r}")

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
            if event["type"] != "ok" or final not in ENDS:
                continue
            said = event["state"]
            allowed = {said} if said in ENDS else {"cancelled", "expired"}
            if final not in allowed:
                self._violated(
                    "wrong_states", f"{event['ref']}: cancelled when {said}, but it ended {final}"
                )

    def _check_prices(self) -> None:
        """A due time is what docs/concepts/ordering.md says, where a client asked why."""
        for why in self._by_op["price"]:
            ref = self._ref.get(why["id"])
            delay_ms = 0 if ref is None else self._asked[ref].spec.get("delay_ms", 0)
            bound, least = why["overtake_bound_ms"], why["overtake_factor"] * why["predicted_ms"]
            if bound < least - max(0.01, 1e-6 * least):
                self._violated(
                    "wrong_states", f"{why['id']} was told a bound of {bound} ms, below {least}"
                )
            slack = bound + why["class_offset_ms"]
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
            if final is None or final.get("state") not in ENDS:
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
                if event[name] and all(f.get("state") in ENDS for f in self._final.values()):
                    self._violated("wrong_counts", f"{name} is {event[name]}, but all have ended")
            states = Counter(f.get("state") for f in self._final.values())
            for state in sorted(ENDS):
                if event["counters"][state] != states[state]:
                    self._violated(
                        "wrong_counts",
                        f"{event['counters'][state]} {state} by the counter, {states[state]} jobs",
                    )

    def _check_exits(self) -> None:
        for event in self._by_op["exits"]:
            for status in set(event["statuses"]) - _TOLD_TO_END:
                self._violated("crashed", f"{event['process']} ended with status {status}")


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
