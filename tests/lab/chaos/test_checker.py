"""The checks of a chaos run, against histories made by hand: each violates one guarantee.

A check that cannot fail proves nothing, so every check fails here once, and fails alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab.chaos.recorded_history import (
    BOUND_S,
    PIECES,
    RecordedHistory,
    batch,
    engine_call,
    refused_request,
    settings,
)

from lengthwise_lab.chaos import history
from lengthwise_lab.chaos.checks import checker, outputs
from lengthwise_lab.chaos.checks.report import CHECKS


def lose_a_job(recorded: RecordedHistory) -> None:
    gone = recorded.find("final"), recorded.find("output"), recorded.find("view")
    recorded.events = [e for e in recorded.events if e not in gone]
    recorded.queue["counters"]["succeeded"] = 2


def leave_a_job_running(recorded: RecordedHistory) -> None:
    recorded.find("final")["state"] = recorded.find("view")["state"] = "running"
    recorded.find("output")["entries"].pop()
    recorded.find("read")["entries"].pop()
    recorded.find("output")["entries"].append(["1100-9", "end", "running"])
    recorded.find("read")["entries"].append(["1100-9", "end", "running"])
    recorded.queue["counters"]["succeeded"] = 2


def never_answer_a_client(recorded: RecordedHistory) -> None:
    recorded.events.append({"op": "submit", "type": "invoke", "ref": "d", "key": "k", "spec": {}})
    recorded.events.append({"op": "submit", "type": "info", "ref": "d", "key": "k", "tries": 99})


def execute_a_job_that_was_not_submitted(recorded: RecordedHistory) -> None:
    recorded.find("execute", "invoke").update(ref="unknown")


def store_a_job_that_was_not_submitted(recorded: RecordedHistory) -> None:
    next(e for e in recorded.events if e["op"] == "stored")["ids"].append("id-x")


def make_two_jobs_of_one_key(recorded: RecordedHistory) -> None:
    recorded.events = [e for e in recorded.events if "c" not in (e.get("ref"), e.get("id", "")[3:])]
    for op in ("submit", "final", "output", "view"):
        recorded.events.append(copy.deepcopy(recorded.find(op)) | {"id": "id-c"})
    recorded.events.append(recorded.events.pop(-5))  # the counters must be last


def accept_another_request_under_a_key(recorded: RecordedHistory) -> None:
    recorded.events.append({"op": "conflict", "type": "ok", "ref": "b", "status": 202})


def end_a_job_twice(recorded: RecordedHistory) -> None:
    for op in ("output", "read"):
        recorded.find(op)["entries"].append(["1100-10", "end", "succeeded"])


def show_a_reader_another_end(recorded: RecordedHistory) -> None:
    recorded.find("read")["entries"][-1][2] = "failed"


def contradict_the_record(recorded: RecordedHistory) -> None:
    recorded.find("output")["entries"][-1][2] = "failed"
    recorded.find("read")["entries"][-1][2] = "failed"


def return_another_end_to_the_owner(recorded: RecordedHistory) -> None:
    recorded.find("view")["state"] = "failed"


def show_a_job_to_another_tenant(recorded: RecordedHistory) -> None:
    recorded.events.append({"op": "peek", "type": "ok", "id": "id-b", "by": "other", "status": 200})


def give_a_job_to_another_tenant(recorded: RecordedHistory) -> None:
    recorded.find("final")["tenant"] = "other"


def lose_a_piece(recorded: RecordedHistory) -> None:
    for op in ("output", "read"):
        del recorded.find(op)["entries"][1]
    recorded.remove_view()


def lose_the_last_piece(recorded: RecordedHistory) -> None:
    for op in ("output", "read"):
        del recorded.find(op)["entries"][2]
    recorded.remove_view()


def hide_a_piece_from_a_reader(recorded: RecordedHistory) -> None:
    del recorded.find("read")["entries"][1]


def let_a_reader_wait_without_end(recorded: RecordedHistory) -> None:
    recorded.find("read")["entries"].pop()
    recorded.find("read")["type"] = "info"


def return_a_response_that_differs_from_the_output(recorded: RecordedHistory) -> None:
    recorded.find("view")["text"] = "b 1100 0 3;"


def store_a_piece_twice(recorded: RecordedHistory) -> None:
    for op in ("output", "read"):
        recorded.find(op)["entries"].insert(1, ["1100-0", "chunk", f"b 1100 0 {PIECES};"])
        recorded.find(op)["entries"][0][0] = "1099-0"
    recorded.remove_view()


def show_a_reader_a_piece_twice(recorded: RecordedHistory) -> None:
    entries = recorded.find("read")["entries"]
    entries.insert(1, list(entries[0]))


def mix_two_calls(recorded: RecordedHistory) -> None:
    for op in ("output", "read"):
        recorded.find(op)["entries"][1][2] = f"b 77 1 {PIECES};"
        recorded.find(op)["entries"][2][2] = f"b 77 2 {PIECES};"
    recorded.remove_view()


def mix_two_jobs(recorded: RecordedHistory) -> None:
    for op in ("output", "read"):
        recorded.find(op)["entries"][1][2] = f"c 1100 1 {PIECES};"
    recorded.remove_view()


def continue_a_call_of_the_earlier_attempt(recorded: RecordedHistory) -> None:
    for op in ("output", "read"):
        recorded.find(op)["entries"].insert(1, ["1100-0", "attempt", "2"])
        recorded.find(op)["entries"][0][0] = "1099-0"
        recorded.find(op)["entries"][2][2] = f"b 1100 0 {PIECES};"
        recorded.find(op)["entries"][3][2] = f"b 1100 1 {PIECES};"
        recorded.find(op)["entries"].insert(4, ["1100-3", "chunk", f"b 1100 2 {PIECES};"])
    recorded.remove_view()


def show_a_reader_an_entry_that_is_lost_later(recorded: RecordedHistory) -> None:
    recorded.find("read")["entries"].insert(3, ["1100-3", "chunk", f"b 1100 2 {PIECES};"])


def succeed_though_the_engine_refuses(recorded: RecordedHistory) -> None:
    recorded.find("submit", "invoke")["spec"]["fate"] = "refused"


def fail_with_attempts_left(recorded: RecordedHistory) -> None:
    recorded.ended("failed", error="engine_failed")


def cancel_without_a_request(recorded: RecordedHistory) -> None:
    recorded.ended("cancelled")


def finish_what_was_cancelled(recorded: RecordedHistory) -> None:
    recorded.events.append({"op": "cancel", "type": "invoke", "ref": "b", "id": "id-b"})
    fields = {"state": "queued", "requested": False}
    recorded.events.append({"op": "cancel", "type": "ok", "ref": "b", "id": "id-b", **fields})


def expire_too_early(recorded: RecordedHistory) -> None:
    recorded.ended("expired")


def start_after_the_deadline(recorded: RecordedHistory) -> None:
    recorded.find("submit", "invoke")["spec"]["ttl_ms"] = 100


def start_before_the_delay_is_over(recorded: RecordedHistory) -> None:
    recorded.find("submit", "invoke")["spec"]["delay_ms"] = 10_000


def change_a_due_time(recorded: RecordedHistory) -> None:
    recorded.find("final")["due_ms"] += 1


def explain_a_wrong_due_time(recorded: RecordedHistory) -> None:
    price = {"predicted_ms": 100.0, "overtake_factor": 3.0, "overtake_bound_ms": 300.0}
    price["class_offset_ms"] = 0.0
    times = {"accepted_ms": 1100.0, "due_ms": 2100.0}
    recorded.events.append({"op": "price", "type": "ok", "id": "id-b", **price, **times})


def explain_a_bound_below_k(recorded: RecordedHistory) -> None:
    price = {"predicted_ms": 100.0, "overtake_factor": 3.0, "overtake_bound_ms": 299.0}
    price["class_offset_ms"] = 0.0
    times = {"accepted_ms": 1100.0, "due_ms": 1399.0}
    recorded.events.append({"op": "price", "type": "ok", "id": "id-b", **price, **times})


def start_while_paused(recorded: RecordedHistory) -> None:
    times = {"from_ms": 1550, "to_ms": 1650}
    recorded.events.append({"op": "fault", "type": "ok", "kind": "pause", **times})


def crash_a_worker(recorded: RecordedHistory) -> None:
    recorded.events.append(
        {"op": "exits", "type": "ok", "process": "worker-1", "statuses": [-9, 1]}
    )


def give_a_chat_half_of_its_answer(recorded: RecordedHistory) -> None:
    text = f"b 1100 0 {PIECES};"
    recorded.events.append(
        {"op": "chat", "type": "ok", "ref": "b", "id": "id-b", "text": text, "tries": 1}
    )


def give_a_chat_another_answer(recorded: RecordedHistory) -> None:
    recorded.chat("ok", "".join(f"b 77 {i} {PIECES};" for i in range(PIECES)))


def give_a_chat_an_error(recorded: RecordedHistory) -> None:
    recorded.events.append(
        {"op": "chat", "type": "fail", "ref": "b", "id": "id-b", "text": None, "tries": 1}
    )


def answer_with_a_500(recorded: RecordedHistory) -> None:
    recorded.events.append({"op": "internal_error", "type": "ok", "where": "GET /v1/jobs/id-b"})


def never_answer_a_chat(recorded: RecordedHistory) -> None:
    recorded.chat("info", None)


def miscount(recorded: RecordedHistory) -> None:
    recorded.queue["counters"]["succeeded"] = 4


def keep_a_job_in_the_queue(recorded: RecordedHistory) -> None:
    recorded.queue["depth"] = 1


def run_what_was_refused(recorded: RecordedHistory) -> None:
    recorded.events += [*refused_request(), engine_call("d", t=2)]


def run_what_is_too_large(recorded: RecordedHistory) -> None:
    recorded.events += [*refused_request(status=413), engine_call("d", t=2)]


def run_a_refused_batch(recorded: RecordedHistory) -> None:
    recorded.events.append(
        {"op": "batch", "type": "invoke", "ref": "x", "lines": ["x-0"], "fates": {}}
    )
    recorded.events.append({"op": "batch", "type": "fail", "ref": "x", "status": 503, "code": ""})
    recorded.events.append(engine_call("x-0", t=2))


def sick_call_of_b(recorded: RecordedHistory, *, waited_s: float) -> None:
    """Let a sick engine have job b before c, which is due later, was started by a healthy one."""
    sick_s = recorded.find("execute", "invoke", of="c")["t"] - waited_s
    recorded.events.insert(2, engine_call("b", t=sick_s, sick="hang"))
    # The healthy call of b is the last, and so are its end and its piece.
    call = recorded.find("execute", "invoke", of="b")
    assert call["t"] == sick_s
    later = next(e for e in recorded.events if e["op"] == "execute" and e.get("run") == 1100)
    recorded.events.remove(later)
    recorded.events.append(later | {"t": recorded.find("execute", "invoke", of="c")["t"] + 1})


def delay_a_job_at_a_sick_replica(recorded: RecordedHistory) -> None:
    sick_call_of_b(recorded, waited_s=BOUND_S + 1)


def fail_a_job_at_a_sick_replica(recorded: RecordedHistory) -> None:
    recorded.ended("failed", attempt=3, error="engine_failed")
    recorded.events.insert(2, engine_call("b", t=1.2, sick="error_500"))
    recorded.events.insert(2, engine_call("b", t=1.3, sick="error_500"))


def lose_a_setting(recorded: RecordedHistory) -> None:
    recorded.events += settings(
        ("setting", "invoke", 1), ("setting", "ok", 1), ("setting", "invoke", 2),
        ("setting", "ok", 2), ("settings", "invoke", 0), ("settings", "ok", 1),
    )  # fmt: skip


def lose_what_a_worker_published(recorded: RecordedHistory) -> None:
    for value in (32_768, None):
        recorded.events.append({"op": "settings", "type": "invoke"})
        recorded.events.append({"op": "settings", "type": "ok", "values": {"max_model_len": value}})


def store_html_as_an_answer(recorded: RecordedHistory) -> None:
    for op in ("output", "read"):
        for entry in recorded.find(op)["entries"][:PIECES]:
            entry[2] = outputs.entry_text("chunk", "<html>")
    recorded.remove_view()


def let_a_batch_run_for_ever(recorded: RecordedHistory) -> None:
    recorded.add_batch(type="info", status="in_progress")


def fail_a_batch(recorded: RecordedHistory) -> None:
    recorded.add_batch(status="failed")


def lose_a_line(recorded: RecordedHistory) -> None:
    recorded.add_batch(results=batch()[-1]["results"][:1])


def answer_a_line_twice(recorded: RecordedHistory) -> None:
    recorded.add_batch(results=[*batch()[-1]["results"], ["x-1", 400, "bad", "id-x-1"]])


def answer_a_line_with_another(recorded: RecordedHistory) -> None:
    results = copy.deepcopy(batch()[-1]["results"])
    results[0][2] = results[0][2].replace("x-0", "x-1")
    recorded.add_batch(results=results)


def answer_a_line_in_half(recorded: RecordedHistory) -> None:
    results = copy.deepcopy(batch()[-1]["results"])
    results[0][2] = f"x-0 7 0 {PIECES};"
    recorded.add_batch(results=results)


def cancel_a_line(recorded: RecordedHistory) -> None:
    results = copy.deepcopy(batch()[-1]["results"])
    results[0][1:3] = [None, "batch_cancelled"]
    recorded.add_batch(results=results)


CHANGES: list[tuple[str, Callable[[RecordedHistory], None]]] = [
    ("told_not_accepted", run_what_was_refused),
    ("told_not_accepted", run_what_is_too_large),
    ("told_not_accepted", run_a_refused_batch),
    ("delayed_by_sick_replica", delay_a_job_at_a_sick_replica),
    ("failed_by_sick_replica", fail_a_job_at_a_sick_replica),
    ("settings_lost", lose_a_setting),
    ("settings_lost", lose_what_a_worker_published),
    ("foreign_answers", store_html_as_an_answer),
    ("batches_wrong", let_a_batch_run_for_ever),
    ("batches_wrong", fail_a_batch),
    ("batches_wrong", lose_a_line),
    ("batches_wrong", answer_a_line_twice),
    ("batches_wrong", answer_a_line_with_another),
    ("batches_wrong", answer_a_line_in_half),
    ("batches_wrong", cancel_a_line),
    ("lost", lose_a_job),
    ("lost", leave_a_job_running),
    ("unanswered", never_answer_a_client),
    ("unexpected", execute_a_job_that_was_not_submitted),
    ("unexpected", store_a_job_that_was_not_submitted),
    ("duplicated", make_two_jobs_of_one_key),
    ("duplicated", accept_another_request_under_a_key),
    ("accepted_twice", end_a_job_twice),
    ("accepted_twice", show_a_reader_another_end),
    ("accepted_twice", contradict_the_record),
    ("accepted_twice", return_another_end_to_the_owner),
    ("leaked", show_a_job_to_another_tenant),
    ("leaked", give_a_job_to_another_tenant),
    ("stream_gaps", lose_a_piece),
    ("stream_gaps", lose_the_last_piece),
    ("stream_gaps", hide_a_piece_from_a_reader),
    ("stream_gaps", let_a_reader_wait_without_end),
    ("stream_gaps", return_a_response_that_differs_from_the_output),
    ("stream_repeats", store_a_piece_twice),
    ("stream_repeats", show_a_reader_a_piece_twice),
    ("stream_mixed", mix_two_calls),
    ("stream_mixed", mix_two_jobs),
    ("stream_mixed", continue_a_call_of_the_earlier_attempt),
    ("read_then_gone", show_a_reader_an_entry_that_is_lost_later),
    ("wrong_states", succeed_though_the_engine_refuses),
    ("wrong_states", fail_with_attempts_left),
    ("wrong_states", cancel_without_a_request),
    ("wrong_states", finish_what_was_cancelled),
    ("wrong_states", expire_too_early),
    ("wrong_states", start_after_the_deadline),
    ("wrong_states", start_before_the_delay_is_over),
    ("wrong_states", change_a_due_time),
    ("wrong_states", explain_a_wrong_due_time),
    ("wrong_states", explain_a_bound_below_k),
    ("started_while_paused", start_while_paused),
    ("stream_gaps", give_a_chat_half_of_its_answer),
    ("read_then_gone", give_a_chat_another_answer),
    ("accepted_twice", give_a_chat_an_error),
    ("unanswered", never_answer_a_chat),
    ("internal_errors", answer_with_a_500),
    ("crashed", crash_a_worker),
    ("wrong_counts", miscount),
    ("wrong_counts", keep_a_job_in_the_queue),
]


def test_a_history_without_violations_passes() -> None:
    report = checker.check(RecordedHistory().events)
    assert report.ok, report.violations
    assert (report.jobs, report.acknowledged, report.faults.total()) == (3, 3, 1)
    assert (report.executions, report.executed_more_than_once) == (3, 0)


@pytest.mark.parametrize(("want", "change"), CHANGES, ids=[f"{s.__name__}" for _, s in CHANGES])
def test_a_violation_is_reported_under_the_name_of_its_check(
    want: str, change: Callable[[RecordedHistory], None]
) -> None:
    recorded = RecordedHistory()
    change(recorded)
    report = checker.check(recorded.events)
    assert not report.ok
    found = {name for name, sentences in report.violations.items() if sentences}
    # One change may violate more than one check; the expected one is among them.
    assert want in found
    assert found <= {want, *ALSO.get(change.__name__, ())}


#: Checks that these changes violate as well.
ALSO = {
    "mix_two_jobs": ("stream_gaps",),
    "show_a_reader_another_end": ("stream_mixed",),
    "start_before_the_delay_is_over": ("overtakes_beyond_bound",),
}


def test_every_check_fails_in_some_test() -> None:
    # The two checks of the order are tested in test_overtaking.py.
    seen = {name for name, _ in CHANGES} | {"out_of_order", "overtakes_beyond_bound"}
    assert seen == set(CHECKS)


def test_a_batch_whose_lines_all_have_their_results_passes() -> None:
    recorded = RecordedHistory()
    recorded.add_batch()
    report = checker.check(recorded.events)
    assert report.ok, report.violations
    assert (report.batches, report.batch_lines_failed) == (1, 1)


def test_a_refused_request_that_no_engine_ran_passes() -> None:
    recorded = RecordedHistory()
    recorded.events += refused_request()
    assert checker.check(recorded.events).ok


@pytest.mark.parametrize(
    "job_id", ["id-d", None], ids=["the error names a job", "another try got no reply"]
)
def test_an_error_that_promises_nothing_is_true_whatever_runs(job_id: str | None) -> None:
    recorded = RecordedHistory()
    recorded.events += [*refused_request(job_id=job_id), engine_call("d", t=2)]
    if job_id is None:
        recorded.events.append({"op": "submit", "type": "info", "ref": "d", "key": None})
    assert checker.check(recorded.events).ok


def test_a_job_may_stay_at_a_sick_replica_within_the_bound() -> None:
    recorded = RecordedHistory()
    sick_call_of_b(recorded, waited_s=BOUND_S - 1)
    report = checker.check(recorded.events)
    assert report.ok, report.violations
    assert report.sick_longest_s == pytest.approx(BOUND_S)


def test_a_job_that_failed_once_at_a_sick_replica_and_otherwise_by_itself_is_not_its_fault() -> (
    None
):
    recorded = RecordedHistory()
    recorded.ended("failed", attempt=3, error="engine_failed")
    recorded.events.insert(2, engine_call("b", t=1.2, sick="error_500"))
    report = checker.check(recorded.events)
    assert report.ok, report.violations


def test_a_write_without_a_result_may_take_effect_or_not() -> None:
    for value in (1, 2):
        recorded = RecordedHistory()
        recorded.events += settings(
            ("setting", "invoke", 1), ("setting", "ok", 1), ("setting", "invoke", 2),
            ("setting", "info", 2), ("settings", "invoke", 0), ("settings", "ok", value),
        )  # fmt: skip
        assert checker.check(recorded.events).ok


def test_the_due_times_of_another_policy_are_not_compared() -> None:
    recorded = RecordedHistory()
    change_a_due_time(recorded)
    window = {"from_ms": 1000, "to_ms": 1200}
    recorded.events.append({"op": "fault", "type": "ok", "kind": "queue_policy", **window})
    assert checker.check(recorded.events).ok


def test_an_error_that_names_a_batch_does_not_deny_it() -> None:
    recorded = RecordedHistory()
    run_a_refused_batch(recorded)
    next(e for e in recorded.events if e["op"] == "batch" and e["type"] == "fail")["named"] = True
    assert checker.check(recorded.events).ok


def test_a_job_that_an_error_named_and_that_was_never_stored_is_not_missed() -> None:
    recorded = RecordedHistory()
    recorded.events += [
        *refused_request(job_id="id-d"),
        {"op": "final", "type": "ok", "id": "id-d", "found": False},
        {"op": "view", "type": "fail", "id": "id-d", "status": 404},
    ]
    report = checker.check(recorded.events)
    assert report.ok, report.violations


def test_a_second_execution_is_counted_and_allowed() -> None:
    recorded = RecordedHistory()
    recorded.events.append(engine_call("b", t=2))
    report = checker.check(recorded.events)
    assert report.ok
    assert report.executed_more_than_once == 1


def test_a_job_whose_acknowledgement_was_lost_is_recovered_and_not_unexpected() -> None:
    recorded = RecordedHistory()
    recorded.find("submit").update(type="info")
    del recorded.find("submit", "info")["id"]
    recorded.find("submit", "info").update(key=None)
    recorded.find("submit", "invoke").update(key=None)
    report = checker.check(recorded.events)
    assert report.ok, report.violations
    assert (report.acknowledged, report.indeterminate, report.recovered) == (2, 1, 1)


def test_output_may_be_lost_with_a_crashed_primary_only_with_durability_replica() -> None:
    recorded = RecordedHistory()
    show_a_reader_an_entry_that_is_lost_later(recorded)
    recorded.events[0]["sizes"] = {"durability": "replica"}
    report = checker.check(recorded.events)
    assert report.ok
    assert report.as_json()["read_then_gone"] == 1


def test_a_cancelled_job_may_have_ended_before() -> None:
    recorded = RecordedHistory()
    recorded.events.append({"op": "cancel", "type": "invoke", "ref": "b", "id": "id-b"})
    fields = {"state": "succeeded", "requested": False}
    recorded.events.append({"op": "cancel", "type": "ok", "ref": "b", "id": "id-b", **fields})
    assert checker.check(recorded.events).ok


def test_the_checker_runs_as_a_program_on_a_file(tmp_path: Path, capsys: Any) -> None:
    path, recorded = tmp_path / "history.jsonl", RecordedHistory()
    end_a_job_twice(recorded)
    path.write_text("".join(json.dumps(e) + "\n" for e in recorded.events))
    assert checker.main([str(path)]) == 1
    assert json.loads(capsys.readouterr().out)["accepted_twice"] == 1


def test_a_line_that_is_not_an_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"op": "run", "type": "ok", "jobs": 1}\n{"op":\n')
    with pytest.raises(ValueError, match=r"history\.jsonl:2 is not JSON"):
        list(history.read(path))
