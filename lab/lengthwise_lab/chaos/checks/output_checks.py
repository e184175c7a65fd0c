"""Check the answers: stored outputs, what readers saw of them, and what OpenAI clients got. Pure.

Called by checker.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from lengthwise_lab.chaos.checks import outputs
from lengthwise_lab.chaos.checks.run_record import RunRecord
from lengthwise_lab.chaos.checks.terminal_states import TERMINAL_STATES


def check_outputs(run: RunRecord) -> None:
    """Every ended job has one whole output that agrees with its record."""
    for job_id, entries in run.outputs.items():
        _add_flaws(run, outputs.find_flaws(entries, run.refs.get(job_id)), job_id)
        state = run.final_state(job_id)
        if (
            state in TERMINAL_STATES
            and entries
            and entries[-1][1] == "end"
            and entries[-1][2] != state
        ):
            problem = f"{job_id} is {state}, its output ends with {entries[-1][2]}"
            run.violated("accepted_twice", problem)
    for job_id in run.final:
        if run.final_state(job_id) in TERMINAL_STATES and job_id not in run.outputs:
            run.violated("stream_gaps", f"{job_id}: its output cannot be read")


def check_views(run: RunRecord) -> None:
    """The service returns the state and the response that are stored."""
    for event in run.by_op["view"]:
        job_id = event["id"]
        state = run.final_state(job_id)
        if state is None and event.get("status") == 404:
            continue  # an error named it, and it was never stored
        if event["type"] != "ok" or event["state"] != state:
            got = event.get("state") or f"status {event.get('status')}"
            run.violated("accepted_twice", f"{job_id} is {state}, the service returned {got}")
        elif state == "succeeded" and event["text"] != _last_text(run.outputs.get(job_id, [])):
            run.violated("stream_gaps", f"{job_id}: its response differs from its output")


def check_readers(run: RunRecord) -> None:
    """A reader sees every entry of an output once, and its one end."""
    for event in run.by_op["read"]:
        whole = run.outputs.get(event["id"])
        if whole is None:
            continue
        seen = event["entries"]
        flaws = outputs.compare(seen, whole, ended=event["type"] == "ok")
        _add_flaws(run, flaws, event["id"])
        known = {entry[0] for entry in whole}  # a lost end counts as `read_then_gone`
        if seen and seen[-1][1] == "end" and seen[-1][0] in known and seen[-1] != whole[-1]:
            run.violated("accepted_twice", f"{event['id']}: a reader saw another end")


def check_chats(run: RunRecord) -> None:
    """An OpenAI client gets the whole answer of one attempt if the job succeeded."""
    for chat in run.by_op["chat"]:
        job_id = chat["id"]
        state = run.final_state(job_id)
        if chat["type"] == "info":
            run.violated("unanswered", f"{chat['ref']} was sent {chat['tries']} times")
        elif (chat["type"] == "ok") != (state == "succeeded"):
            run.violated("accepted_twice", f"{job_id} is {state}, a chat got something else")
        elif chat["type"] == "ok" and chat["text"] != _last_text(run.outputs.get(job_id, [])):
            # A whole answer that differs was given by a server that was lost afterwards.
            check = "read_then_gone" if outputs.is_whole(chat["text"]) else "stream_gaps"
            check = "foreign_answers" if outputs.FOREIGN in chat["text"] else check
            run.violated(check, f"{job_id}: a chat got {chat['text'][:80]!r}")


def _add_flaws(run: RunRecord, flaws: outputs.Flaws, job_id: str) -> None:
    for check, found in (
        ("stream_gaps", flaws.gaps),
        ("stream_repeats", flaws.repeats),
        ("stream_mixed", flaws.mixed),
        ("read_then_gone", flaws.gone),
        ("accepted_twice", flaws.ends),
        ("foreign_answers", flaws.foreign),
    ):
        if found:
            run.violated(check, f"{run.refs.get(job_id, '?')} ({job_id}): {found[0]}")


def _last_text(entries: Sequence[outputs.Entry]) -> str:
    """Return the text of the last attempt."""
    text = ""
    for entry in entries:
        if entry[1] == "attempt":
            text = ""
        elif entry[1] == "chunk":
            text += entry[2]
    return text
