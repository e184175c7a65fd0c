"""Histories without violations, made by hand, for the tests of the checker."""

from __future__ import annotations

import copy
from typing import Any

HistoryEvent = dict[str, Any]

#: Pieces per answer in these histories.
PIECES = 3

#: How long a sick replica may have a job in these histories, s.
BOUND_S = 5


def job(
    ref: str, *, accepted: float, started: float, slack: float = 1000.0, key: str | None = "key"
) -> list[HistoryEvent]:
    """Make the events of one ordinary job: submitted, executed, read, and audited at the end.

    Times: ms. `slack`: from its acceptance to its due time.
    """
    run = int(accepted)
    entries = [
        *([f"{run}-{i}", "chunk", f"{ref} {run} {i} {PIECES};"] for i in range(PIECES)),
        [f"{run}-9", "end", "succeeded"],
    ]
    spec = {
        "tenant": "t",
        "fate": "answered",
        "class": "interactive",
        "delay_ms": 0,
        "ttl_ms": 60_000,
        "max_attempts": 3,
    }
    times = {"accepted_ms": accepted, "due_ms": accepted + slack}
    job_id, key = f"id-{ref}", None if key is None else f"key-{ref}"
    return [
        {"op": "submit", "type": "invoke", "ref": ref, "key": key, "spec": spec},
        {"op": "submit", "type": "ok", "ref": ref, "key": key, "id": job_id, "tries": 1, **times},
        {
            "op": "execute",
            "type": "invoke",
            "ref": ref,
            "run": run,
            "worker": "w",
            "t": started / 1000,
        },
        {"op": "execute", "type": "ok", "ref": ref, "run": run, "t": started / 1000 + 0.1},
        {
            "op": "read",
            "type": "ok",
            "ref": ref,
            "id": job_id,
            "connections": 2,
            "entries": entries,
        },
        {
            "op": "final",
            "type": "ok",
            "id": job_id,
            "found": True,
            "state": "succeeded",
            "tenant": "t",
            "attempt": 1,
            "started_ms": started,
            "finished_ms": started + 100,
            "error": None,
            **times,
        },
        {
            "op": "view",
            "type": "ok",
            "id": job_id,
            "state": "succeeded",
            "text": "".join(e[2] for e in entries if e[1] == "chunk"),
        },
        {"op": "output", "type": "ok", "id": job_id, "entries": copy.deepcopy(entries)},
    ]


def refused_request(*, status: int = 503, job_id: str | None = None) -> list[HistoryEvent]:
    """Make the events of a request that was answered with an error."""
    error = {"status": status, "code": "store_unavailable", "id": job_id}
    return [
        {"op": "submit", "type": "invoke", "ref": "d", "key": None, "spec": {}},
        {"op": "refused", "type": "ok", "ref": "d", "key": None, **error},
        {"op": "submit", "type": "fail", "ref": "d", "key": None, "status": status},
    ]


def engine_call(ref: str, *, t: float, sick: str | None = None) -> HistoryEvent:
    """Make the start of an engine call at this time, s."""
    call = {"op": "execute", "type": "invoke", "ref": ref, "run": int(t * 1e6), "worker": "w"}
    return call | {"t": t} | ({} if sick is None else {"sick": sick})


def settings(*values: tuple[str, str, int]) -> list[HistoryEvent]:
    """Make writes and reads: ("setting" or "settings", type, value)."""
    return [{"op": op, "type": kind, "values": {"max_depth": value}} for op, kind, value in values]


def batch(**changes: Any) -> list[HistoryEvent]:
    """Make the events of a batch of two lines, one of which the engine refuses."""
    pieces = "".join(f"x-0 7 {i} {PIECES};" for i in range(PIECES))
    end = {
        "op": "batch",
        "type": "ok",
        "ref": "x",
        "id": "batch_x",
        "status": "completed",
        "cancelled": False,
        "results": [["x-0", 200, pieces, "id-x-0"], ["x-1", 400, "bad", "id-x-1"]],
    }
    fates = {"x-0": "answered", "x-1": "refused"}
    return [
        {"op": "batch", "type": "invoke", "ref": "x", "lines": list(fates), "fates": fates},
        {"op": "final", "type": "ok", "id": "id-x-0", "found": True, "state": "succeeded"}
        | {"tenant": "t", "finished_ms": 1, "accepted_ms": 0, "started_ms": 1},
        end | changes,
    ]


class RecordedHistory:
    """A history of three jobs without violations, to be changed."""

    def __init__(self) -> None:
        self.events: list[HistoryEvent] = [
            {
                "op": "run",
                "type": "ok",
                "jobs": 3,
                "classes": {"interactive": 0, "batch": 5000},
                "start_ms": 0,
                "sick_bound_s": BOUND_S,
            },
            {"op": "fault", "type": "ok", "kind": "kill_worker"},
            *job("a", accepted=1000, started=1500),
            *job("b", accepted=1100, started=1600),
            *job("c", accepted=1200, started=1700),
            {"op": "stored", "type": "ok", "ids": ["id-a", "id-b", "id-c"]},
            {
                "op": "queue",
                "type": "ok",
                "depth": 0,
                "scheduled": 0,
                "in_flight": 0,
                "counters": {"succeeded": 3, "failed": 0, "cancelled": 0, "expired": 0},
            },
        ]

    def find(self, op: str, kind: str = "ok", of: str = "b") -> HistoryEvent:
        """Return the event of this operation and type about the job `of`."""
        return next(
            e
            for e in self.events
            if e["op"] == op
            and e["type"] == kind
            and (e.get("ref") == of or e.get("id") == f"id-{of}")
        )

    @property
    def queue(self) -> HistoryEvent:
        """The event about the queue at the end."""
        return next(e for e in self.events if e["op"] == "queue")

    def chat(self, kind: str, text: str | None) -> None:
        """Add what an OpenAI client got for job b."""
        fields = {"ref": "b", "id": "id-b", "text": text, "tries": 2}
        self.events.append({"op": "chat", "type": kind, **fields})

    def add_batch(self, **changes: Any) -> None:
        """Add a batch whose end differs from a right one in `changes`."""
        self.events.extend(batch(**changes))
        self.queue["counters"]["succeeded"] += 1
        self.events.append(
            {
                "op": "output",
                "type": "ok",
                "id": "id-x-0",
                "entries": [
                    *([f"7-{i}", "chunk", f"x-0 7 {i} {PIECES};"] for i in range(PIECES)),
                    ["7-9", "end", "succeeded"],
                ],
            }
        )

    def remove_view(self) -> None:
        """Remove what the service returned for job b."""
        self.events.remove(self.find("view"))

    def ended(self, state: str, **fields: Any) -> None:
        """Let job b end in another state, consistently in all events."""
        self.find("final").update(state=state, **fields)
        self.find("view").update(state=state, text=None)
        for op in ("output", "read"):
            self.find(op)["entries"][-1][2] = state
        counters = self.queue["counters"]
        counters["succeeded"] -= 1
        counters[state] += 1
