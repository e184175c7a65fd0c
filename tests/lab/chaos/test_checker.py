"""The checker of a chaos run, against histories written by hand: each breaks one promise.

A checker that cannot fail proves nothing, so every check is seen to fail here, and to fail alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lengthwise_lab.chaos import history
from lengthwise_lab.chaos.checks import checker
from lengthwise_lab.chaos.checks.report import CHECKS

Event = dict[str, Any]

#: Pieces per answer in these histories.
PIECES = 3


def job(
    ref: str, *, accepted: float, started: float, slack: float = 1000.0, key: str | None = "key"
) -> list[Event]:
    """All that is seen of one ordinary job: submitted, executed, read underway, and at the end.

    Times: ms. `slack`: how long after its acceptance it is due.
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
    said = {"accepted_ms": accepted, "due_ms": accepted + slack}
    job_id, key = f"id-{ref}", None if key is None else f"key-{ref}"
    return [
        {"op": "submit", "type": "invoke", "ref": ref, "key": key, "spec": spec},
        {"op": "submit", "type": "ok", "ref": ref, "key": key, "id": job_id, "tries": 1, **said},
        {"op": "execute", "type": "invoke", "ref": ref, "run": run, "worker": "w"},
        {"op": "execute", "type": "ok", "ref": ref, "run": run},
        {"op": "read", "type": "ok", "ref": ref, "id": job_id, "visits": 2, "entries": entries},
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
            **said,
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


class Told:
    """A sound history of three jobs, to be spoiled."""

    def __init__(self) -> None:
        self.events: list[Event] = [
            {"op": "run", "type": "ok", "jobs": 3, "classes": {"interactive": 0, "batch": 5000}},
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

    def find(self, op: str, kind: str = "ok", of: str = "b") -> Event:
        """The event of that kind about the job `of`."""
        return next(
            e
            for e in self.events
            if e["op"] == op
            and e["type"] == kind
            and (e.get("ref") == of or e.get("id") == f"id-{of}")
        )

    def chat(self, kind: str, text: str | None) -> None:
        """An OpenAI client heard this of job b."""
        said = {"ref": "b", "id": "id-b", "text": text, "tries": 2}
        self.events.append({"op": "chat", "type": kind, **said})

    def says_nothing(self) -> None:
        """The service was not asked about job b."""
        self.events.remove(self.find("view"))

    def ended(self, state: str, **fields: Any) -> None:
        """Job b ended in another way, and everybody says so."""
        self.find("final").update(state=state, **fields)
        self.find("view").update(state=state, text=None)
        for op in ("output", "read"):
            self.find(op)["entries"][-1][2] = state
        counters = self.events[-1]["counters"]
        counters["succeeded"] -= 1
        counters[state] += 1


def lose_a_job(told: Told) -> None:
    gone = told.find("final"), told.find("output"), told.find("view")
    told.events = [e for e in told.events if e not in gone]
    told.events[-1]["counters"]["succeeded"] = 2


def leave_a_job_running(told: Told) -> None:
    told.find("final")["state"] = told.find("view")["state"] = "running"
    told.find("output")["entries"].pop()
    told.find("read")["entries"].pop()
    told.find("output")["entries"].append(["1100-9", "end", "running"])
    told.find("read")["entries"].append(["1100-9", "end", "running"])
    told.events[-1]["counters"]["succeeded"] = 2


def never_answer_a_client(told: Told) -> None:
    told.events.append({"op": "submit", "type": "invoke", "ref": "d", "key": "k", "spec": {}})
    told.events.append({"op": "submit", "type": "info", "ref": "d", "key": "k", "tries": 99})


def execute_what_nobody_asked_for(told: Told) -> None:
    told.find("execute", "invoke").update(ref="nobody")


def store_what_nobody_asked_for(told: Told) -> None:
    next(e for e in told.events if e["op"] == "stored")["ids"].append("id-x")


def make_two_jobs_of_one_key(told: Told) -> None:
    told.events = [e for e in told.events if "c" not in (e.get("ref"), e.get("id", "")[3:])]
    for op in ("submit", "final", "output", "view"):
        told.events.append(copy.deepcopy(told.find(op)) | {"id": "id-c"})
    told.events.append(told.events.pop(-5))  # the counters are last


def accept_another_request_under_a_key(told: Told) -> None:
    told.events.append({"op": "conflict", "type": "ok", "ref": "b", "status": 202})


def end_a_job_twice(told: Told) -> None:
    for op in ("output", "read"):
        told.find(op)["entries"].append(["1100-10", "end", "succeeded"])


def tell_a_reader_another_end(told: Told) -> None:
    told.find("read")["entries"][-1][2] = "failed"


def contradict_the_record(told: Told) -> None:
    told.find("output")["entries"][-1][2] = "failed"
    told.find("read")["entries"][-1][2] = "failed"


def tell_the_owner_another_end(told: Told) -> None:
    told.find("view")["state"] = "failed"


def show_a_job_to_another_tenant(told: Told) -> None:
    told.events.append({"op": "peek", "type": "ok", "id": "id-b", "by": "other", "status": 200})


def give_a_job_to_another_tenant(told: Told) -> None:
    told.find("final")["tenant"] = "other"


def lose_a_piece(told: Told) -> None:
    for op in ("output", "read"):
        del told.find(op)["entries"][1]
    told.says_nothing()


def lose_the_last_piece(told: Told) -> None:
    for op in ("output", "read"):
        del told.find(op)["entries"][2]
    told.says_nothing()


def hide_a_piece_from_a_reader(told: Told) -> None:
    del told.find("read")["entries"][1]


def let_a_reader_wait_for_ever(told: Told) -> None:
    told.find("read")["entries"].pop()
    told.find("read")["type"] = "info"


def answer_something_else_than_the_output(told: Told) -> None:
    told.find("view")["text"] = "b 1100 0 3;"


def store_a_piece_twice(told: Told) -> None:
    for op in ("output", "read"):
        told.find(op)["entries"].insert(1, ["1100-0", "chunk", f"b 1100 0 {PIECES};"])
        told.find(op)["entries"][0][0] = "1099-0"
    told.says_nothing()


def show_a_reader_a_piece_twice(told: Told) -> None:
    entries = told.find("read")["entries"]
    entries.insert(1, list(entries[0]))


def mix_two_calls(told: Told) -> None:
    for op in ("output", "read"):
        told.find(op)["entries"][1][2] = f"b 77 1 {PIECES};"
        told.find(op)["entries"][2][2] = f"b 77 2 {PIECES};"
    told.says_nothing()


def mix_two_jobs(told: Told) -> None:
    for op in ("output", "read"):
        told.find(op)["entries"][1][2] = f"c 1100 1 {PIECES};"
    told.says_nothing()


def go_on_with_a_call_of_the_attempt_before(told: Told) -> None:
    for op in ("output", "read"):
        told.find(op)["entries"].insert(1, ["1100-0", "attempt", "2"])
        told.find(op)["entries"][0][0] = "1099-0"
        told.find(op)["entries"][2][2] = f"b 1100 0 {PIECES};"
        told.find(op)["entries"][3][2] = f"b 1100 1 {PIECES};"
        told.find(op)["entries"].insert(4, ["1100-3", "chunk", f"b 1100 2 {PIECES};"])
    told.says_nothing()


def show_a_reader_what_is_no_longer_there(told: Told) -> None:
    told.find("read")["entries"].insert(3, ["1100-3", "chunk", f"b 1100 2 {PIECES};"])


def succeed_where_the_engine_refuses(told: Told) -> None:
    told.find("submit", "invoke")["spec"]["fate"] = "refused"


def fail_with_attempts_left(told: Told) -> None:
    told.ended("failed", error="engine_failed")


def cancel_unasked(told: Told) -> None:
    told.ended("cancelled")


def finish_what_was_cancelled(told: Told) -> None:
    told.events.append({"op": "cancel", "type": "invoke", "ref": "b", "id": "id-b"})
    said = {"state": "queued", "requested": False}
    told.events.append({"op": "cancel", "type": "ok", "ref": "b", "id": "id-b", **said})


def expire_too_early(told: Told) -> None:
    told.ended("expired")


def start_after_the_deadline(told: Told) -> None:
    told.find("submit", "invoke")["spec"]["ttl_ms"] = 100


def start_before_the_delay_is_over(told: Told) -> None:
    told.find("submit", "invoke")["spec"]["delay_ms"] = 10_000


def change_a_due_time(told: Told) -> None:
    told.find("final")["due_ms"] += 1


def misprice_a_job(told: Told) -> None:
    said = {"predicted_ms": 100.0, "overtake_factor": 3.0, "overtake_bound_ms": 300.0}
    said["class_offset_ms"] = 0.0
    times = {"accepted_ms": 1100.0, "due_ms": 2100.0}
    told.events.append({"op": "price", "type": "ok", "id": "id-b", **said, **times})


def tell_a_bound_below_k(told: Told) -> None:
    said = {"predicted_ms": 100.0, "overtake_factor": 3.0, "overtake_bound_ms": 299.0}
    said["class_offset_ms"] = 0.0
    times = {"accepted_ms": 1100.0, "due_ms": 1399.0}
    told.events.append({"op": "price", "type": "ok", "id": "id-b", **said, **times})


def start_while_paused(told: Told) -> None:
    times = {"from_ms": 1550, "to_ms": 1650}
    told.events.append({"op": "fault", "type": "ok", "kind": "pause", **times})


def break_down(told: Told) -> None:
    told.events.append({"op": "exits", "type": "ok", "process": "worker-1", "statuses": [-9, 1]})


def tell_a_chat_half_of_it(told: Told) -> None:
    text = f"b 1100 0 {PIECES};"
    told.events.append(
        {"op": "chat", "type": "ok", "ref": "b", "id": "id-b", "text": text, "tries": 1}
    )


def tell_a_chat_another_answer(told: Told) -> None:
    told.chat("ok", "".join(f"b 77 {i} {PIECES};" for i in range(PIECES)))


def tell_a_chat_that_it_failed(told: Told) -> None:
    told.events.append(
        {"op": "chat", "type": "fail", "ref": "b", "id": "id-b", "text": None, "tries": 1}
    )


def answer_with_a_500(told: Told) -> None:
    told.events.append({"op": "internal_error", "type": "ok", "where": "GET /v1/jobs/id-b"})


def never_answer_a_chat(told: Told) -> None:
    told.chat("info", None)


def miscount(told: Told) -> None:
    told.events[-1]["counters"]["succeeded"] = 4


def keep_a_ghost_in_the_line(told: Told) -> None:
    told.events[-1]["depth"] = 1


SPOILED: list[tuple[str, Callable[[Told], None]]] = [
    ("lost", lose_a_job),
    ("lost", leave_a_job_running),
    ("unanswered", never_answer_a_client),
    ("unexpected", execute_what_nobody_asked_for),
    ("unexpected", store_what_nobody_asked_for),
    ("duplicated", make_two_jobs_of_one_key),
    ("duplicated", accept_another_request_under_a_key),
    ("accepted_twice", end_a_job_twice),
    ("accepted_twice", tell_a_reader_another_end),
    ("accepted_twice", contradict_the_record),
    ("accepted_twice", tell_the_owner_another_end),
    ("leaked", show_a_job_to_another_tenant),
    ("leaked", give_a_job_to_another_tenant),
    ("stream_gaps", lose_a_piece),
    ("stream_gaps", lose_the_last_piece),
    ("stream_gaps", hide_a_piece_from_a_reader),
    ("stream_gaps", let_a_reader_wait_for_ever),
    ("stream_gaps", answer_something_else_than_the_output),
    ("stream_repeats", store_a_piece_twice),
    ("stream_repeats", show_a_reader_a_piece_twice),
    ("stream_mixed", mix_two_calls),
    ("stream_mixed", mix_two_jobs),
    ("stream_mixed", go_on_with_a_call_of_the_attempt_before),
    ("read_then_gone", show_a_reader_what_is_no_longer_there),
    ("wrong_states", succeed_where_the_engine_refuses),
    ("wrong_states", fail_with_attempts_left),
    ("wrong_states", cancel_unasked),
    ("wrong_states", finish_what_was_cancelled),
    ("wrong_states", expire_too_early),
    ("wrong_states", start_after_the_deadline),
    ("wrong_states", start_before_the_delay_is_over),
    ("wrong_states", change_a_due_time),
    ("wrong_states", misprice_a_job),
    ("wrong_states", tell_a_bound_below_k),
    ("started_while_paused", start_while_paused),
    ("stream_gaps", tell_a_chat_half_of_it),
    ("read_then_gone", tell_a_chat_another_answer),
    ("accepted_twice", tell_a_chat_that_it_failed),
    ("unanswered", never_answer_a_chat),
    ("internal_errors", answer_with_a_500),
    ("crashed", break_down),
    ("wrong_counts", miscount),
    ("wrong_counts", keep_a_ghost_in_the_line),
]


def test_a_sound_history_breaks_no_promise() -> None:
    report = checker.check(Told().events)
    assert report.ok, report.violations
    assert (report.jobs, report.acknowledged, report.faults.total()) == (3, 3, 1)
    assert (report.executions, report.executed_more_than_once) == (3, 0)


@pytest.mark.parametrize(("want", "spoil"), SPOILED, ids=[f"{s.__name__}" for _, s in SPOILED])
def test_a_broken_promise_is_found_and_called_by_its_name(
    want: str, spoil: Callable[[Told], None]
) -> None:
    told = Told()
    spoil(told)
    report = checker.check(told.events)
    assert not report.ok
    found = {name for name, sentences in report.violations.items() if sentences}
    # A reader who saw the wrong thing may see it in more than one way; what is wrong is among it.
    assert want in found
    assert found <= {want, *ALSO.get(spoil.__name__, ())}


#: What else such a history cannot help but show.
ALSO = {
    "mix_two_jobs": ("stream_gaps",),
    "tell_a_reader_another_end": ("stream_mixed",),
    "start_before_the_delay_is_over": ("overtakes_beyond_bound",),
}


def test_every_check_is_seen_to_fail() -> None:
    """The two about the order are in test_chaos_overtaking.py."""
    seen = {name for name, _ in SPOILED} | {"out_of_order", "overtakes_beyond_bound"}
    assert seen == set(CHECKS)


def test_a_second_execution_is_told_and_allowed() -> None:
    told = Told()
    told.events.append({"op": "execute", "type": "invoke", "ref": "b", "run": 2, "worker": "w"})
    report = checker.check(told.events)
    assert report.ok
    assert report.executed_more_than_once == 1


def test_a_job_whose_acknowledgement_was_lost_is_recovered_and_not_unexpected() -> None:
    told = Told()
    told.find("submit").update(type="info")
    del told.find("submit", "info")["id"]
    told.find("submit", "info").update(key=None)
    told.find("submit", "invoke").update(key=None)
    report = checker.check(told.events)
    assert report.ok, report.violations
    assert (report.acknowledged, report.indeterminate, report.recovered) == (2, 1, 1)


def test_output_may_be_lost_with_a_crashed_primary_and_only_then() -> None:
    told = Told()
    show_a_reader_what_is_no_longer_there(told)
    told.events[0]["sizes"] = {"durability": "replica"}
    report = checker.check(told.events)
    assert report.ok
    assert report.as_json()["read_then_gone"] == 1


def test_a_cancelled_job_may_have_ended_before() -> None:
    told = Told()
    told.events.append({"op": "cancel", "type": "invoke", "ref": "b", "id": "id-b"})
    said = {"state": "succeeded", "requested": False}
    told.events.append({"op": "cancel", "type": "ok", "ref": "b", "id": "id-b", **said})
    assert checker.check(told.events).ok


def test_the_checker_runs_alone_on_a_file(tmp_path: Path, capsys: Any) -> None:
    path, told = tmp_path / "history.jsonl", Told()
    end_a_job_twice(told)
    path.write_text("".join(json.dumps(e) + "\n" for e in told.events))
    assert checker.main([str(path)]) == 1
    assert json.loads(capsys.readouterr().out)["accepted_twice"] == 1


def test_a_line_that_is_no_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"op": "run", "type": "ok", "jobs": 1}\n{"op":\n')
    with pytest.raises(ValueError, match=r"history\.jsonl:2 is not JSON"):
        list(history.read(path))
