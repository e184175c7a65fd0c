"""Check the batches: each ends, and each line has exactly one right result. Pure.

Called by checker.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lengthwise_lab.chaos.checks import outputs
from lengthwise_lab.chaos.checks.run_record import RunRecord

#: The fates of lines that an engine answers.
_ANSWERED = frozenset({"answered", "flaky"})

#: The code of a line that did not run because its batch was cancelled.
_CANCELLED = "batch_cancelled"


def check_batches(run: RunRecord) -> None:
    """Every batch ends as its client asked, and every line has one result, which is right."""
    ended = {e["ref"]: e for e in run.by_op["batch"] if e["type"] in ("ok", "info")}
    unknown = {e["ref"] for e in run.by_op["batch"] if e["type"] == "unknown"}
    refused = {e["ref"]: e for e in run.by_op["batch"] if e["type"] == "fail"}
    called = {e["ref"] for e in run.by_op["execute"] if e["type"] == "invoke"}
    for batch in run.by_op["batch submitted"]:
        ref = batch["ref"]
        if ref in refused:
            ran = called & set(batch["lines"])
            if ran and not refused[ref].get("named"):
                problem = f"batch {ref} got {refused[ref]['status']}, and {len(ran)} lines ran"
                run.violated("told_not_accepted", problem)
        elif ref not in unknown:
            for problem in _problems(run, batch, ended.get(ref)):
                run.violated("batches_wrong", f"{ref}: {problem}")


def _problems(run: RunRecord, batch: dict[str, Any], end: dict[str, Any] | None) -> list[str]:
    if end is None or end["type"] != "ok":
        return [f"did not end: {None if end is None else end['status']}"]
    found = []
    want = {"cancelled", "completed"} if end["cancelled"] else {"completed"}
    if end["status"] not in want:
        found.append(f"ended as {end['status']}")
    times = Counter(result[0] for result in end["results"])
    if set(times) != set(batch["lines"]) or max(times.values()) > 1:
        missing = set(batch["lines"]) - set(times)
        repeated = [line for line, n in times.items() if n > 1]
        found.append(f"lines without result: {sorted(missing)[:3]}, with several: {repeated[:3]}")
    for line, status, said, job_id in end["results"]:
        problem = _problem_of_line(batch["fates"].get(line), line, status, said)
        if problem is None and status == 200 and run.final_state(job_id) != "succeeded":
            problem = f"{line} has an answer, and its job {job_id} is {run.final_state(job_id)}"
        if said == _CANCELLED and not end["cancelled"]:
            problem = f"{line} was cancelled, though no client asked for it"
        run.report.batch_lines_failed += status != 200
        if problem is not None:
            found.append(problem)
    return found


def _problem_of_line(fate: str | None, line: str, status: int | None, said: Any) -> str | None:
    if status != 200:
        return None if said or status else f"{line} failed without a reason"
    if fate not in _ANSWERED:
        return f"{line} has an answer, though the engine gives none ({fate})"
    pieces = outputs.pieces_of(str(said))
    if not outputs.is_whole(str(said)) or pieces[0].ref != line:
        return f"{line} has the answer {str(said)[:60]!r}"
    return None
