"""What the store says, as the bodies of the contract. Pure."""

from __future__ import annotations

from typing import Any, cast

from lengthwise_contract.api import (
    Explanation,
    JobView,
    LineEntry,
    LineView,
    PolicyName,
    QueueView,
)
from lengthwise_contract.states import JobState
from lengthwise_queue import pricing
from lengthwise_queue.jobs import Accepted, Job, Line, NewJob, Position
from lengthwise_queue.queue_book import Page


def job_view(job: Job, response: dict[str, Any] | None) -> JobView:
    """A job as its owner sees it."""
    return JobView(
        id=job.id,
        queue=job.queue,
        endpoint=job.endpoint,
        job_class=job.job_class,
        state=job.state,
        attempt=job.attempt,
        accepted_ms=job.accepted_ms,
        started_ms=job.started_ms,
        first_output_ms=job.first_output_ms,
        finished_ms=job.finished_ms,
        due_ms=job.due_ms,
        predicted_tokens=job.predicted_tokens,
        prompt_tokens=job.prompt_tokens,
        output_tokens=job.output_tokens,
        cancel_requested=job.cancel_requested,
        error=job.error,
        response=response,
    )


def new_job_view(queue: str, job: NewJob, accepted: Accepted) -> JobView:
    """A job that was accepted just now."""
    return JobView(
        id=accepted.id,
        queue=queue,
        endpoint=job.endpoint,
        job_class=job.job_class,
        state=accepted.state,
        attempt=0,
        accepted_ms=accepted.accepted_ms,
        due_ms=accepted.due_ms,
        predicted_tokens=job.predicted_tokens,
    )


def queue_view(page: Page) -> QueueView:
    """The line as it stands."""
    settings, stats = page.settings, page.stats
    backlog_ms = pricing.drain_ms(settings, stats, stats.backlog_tokens)
    oldest_ms = stats.oldest_accepted_ms
    counted = stats.counters
    return QueueView(
        name=page.queue.name,
        settings=settings,
        depth=stats.depth,
        scheduled=stats.scheduled,
        in_flight=stats.in_flight,
        dead=stats.dead,
        backlog_tokens=stats.backlog_tokens,
        backlog_seconds=None if backlog_ms is None else backlog_ms / 1000,
        oldest_wait_seconds=0 if oldest_ms is None else max(stats.now_ms - oldest_ms, 0) / 1000,
        ms_per_token=pricing.ms_per_token(settings, stats),
        median_tokens=pricing.median_tokens(settings, stats),
        accepted=counted.get("accepted", 0),
        succeeded=counted.get("succeeded", 0),
        failed=counted.get("failed", 0),
        cancelled=counted.get("cancelled", 0),
        expired=counted.get("expired", 0),
        fallbacks=counted.get("fallbacks", 0),
        workers=stats.workers,
    )


def line_view(line: Line) -> LineView:
    """The next jobs, those running, and the last finished."""
    return LineView(
        now_ms=line.now_ms,
        waiting=[_line_entry(job) for job in line.waiting],
        running=[_line_entry(job) for job in line.running],
        finished=[_line_entry(job) for job in line.finished],
    )


def _line_entry(job: Job) -> LineEntry:
    return LineEntry(
        id=job.id,
        state=job.state,
        job_class=job.job_class,
        predicted_tokens=job.predicted_tokens,
        output_tokens=job.output_tokens,
        accepted_ms=job.accepted_ms,
        due_ms=job.due_ms,
        started_ms=job.started_ms,
        finished_ms=job.finished_ms,
    )


def explanation(job: Job, page: Page, position: Position | None) -> Explanation:
    """Why a job stands where it stands."""
    settings, stats = page.settings, page.stats
    offsets = {c.name: c.offset_ms for c in settings.classes}
    ahead_ms = None
    if position is not None:
        ahead_ms = pricing.drain_ms(settings, stats, position.tokens_ahead)
        slots = sum(worker.slots for worker in stats.workers)
        if position.ahead < slots - stats.in_flight:
            ahead_ms = 0.0  # there is a free slot for it now
    priced_at = job.predicted_ms / job.predicted_tokens if job.predicted_tokens else 0.0
    return Explanation(
        id=job.id,
        queue=job.queue,
        state=job.state,
        policy=cast(PolicyName, job.policy),
        prediction=job.prediction,
        predicted_tokens=job.predicted_tokens,
        ms_per_token=priced_at,
        predicted_ms=job.predicted_ms,
        overtake_factor=settings.overtake_factor,
        class_offset_ms=offsets.get(job.job_class, 0.0),
        accepted_ms=job.accepted_ms,
        due_ms=job.due_ms,
        position=None if position is None else position.ahead,
        tokens_ahead=None if position is None else position.tokens_ahead,
        estimated_start_ms=None if ahead_ms is None else stats.now_ms + ahead_ms,
        why=_why(job, position, ahead_ms),
    )


def _why(job: Job, position: Position | None, ahead_ms: float | None) -> str:
    if job.state is JobState.RUNNING:
        return f"A worker is answering it now, attempt {job.attempt}."
    if job.state is JobState.SCHEDULED:
        return "It is not in the line yet: it waits for its delay, or for its retry, to be over."
    if job.state is not JobState.QUEUED or position is None:
        return f"It is not waiting: it is {job.state}."
    if position.ahead == 0:
        place = "It is next."
    else:
        jobs = "1 job is" if position.ahead == 1 else f"{position.ahead} jobs are"
        place = f"{jobs} ahead, with about {position.tokens_ahead:.0f} predicted tokens."
    if ahead_ms is None:
        start = "No worker serves this queue, so nothing moves: start one."
    else:
        start = f"It should start in about {ahead_ms / 1000:.1f} s."
    return f"{place} {start} {_rule(job)}"


def _rule(job: Job) -> str:
    source = "predicted" if job.prediction is not None else "assumed, for want of a prediction"
    length = f"{job.predicted_tokens:.0f} output tokens were {source}"
    if job.policy != "sjf":
        return f"The queue served in order of acceptance ({job.policy}) when it came; {length}."
    return (
        f"{length[0].upper()}{length[1:]}, so it fell due {job.slack_ms / 1000:.1f} s after its "
        "acceptance, and whatever falls due earlier goes first."
    )


def listing(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """OpenAI's page of a list."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }
