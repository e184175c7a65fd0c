"""What Redis answers, as values. Called by `RedisJobStore`; no client, no clock."""

from __future__ import annotations

import json
import logging
from typing import Any, cast

from pydantic import ValidationError

from lengthwise_contract.api import Endpoint, JobError, Prediction, QueueSettings, WorkerView
from lengthwise_contract.states import JobState
from lengthwise_queue.jobs import Claim, Job, Lease, Queue

log = logging.getLogger(__name__)


def read_clock_ms(time: tuple[int, int]) -> float:
    """The reply of TIME, (s, us), as ms since the epoch."""
    return time[0] * 1000 + time[1] / 1000


def read_claims(answer: list[list[Any]]) -> list[Claim]:
    """The answer of claim.lua."""
    return [
        Claim(
            lease=Lease(job_id=job_id.decode(), nonce=nonce.decode(), attempt=attempt),
            endpoint=cast("Endpoint", endpoint.decode()),
            body=body,
            due_ms=float(due),
            predicted_tokens=float(tokens),
            deadline_ms=float(deadline),
        )
        for job_id, nonce, attempt, endpoint, body, due, tokens, deadline in answer
    ]


def read_worker(raw: bytes) -> WorkerView | None:
    """What a worker says of itself; None: it cannot be read."""
    try:
        return WorkerView.model_validate_json(raw)
    except ValidationError:
        return None  # written by a newer version; its heartbeat still counts


def read_queue(name: str, raw: bytes) -> Queue | None:
    """A queue's settings; None: they cannot be read, which is logged."""
    try:
        return Queue(name=name, settings=QueueSettings.model_validate_json(raw))
    except ValidationError:
        log.exception("queue settings cannot be read; put them again", extra={"queue": name})
        return None


def read_job(queue: str, job_id: str, raw: dict[bytes, bytes]) -> Job | None:
    """A record; None: it cannot be read, which is logged. The scripts quarantine it."""
    r = {name.decode(): value.decode(errors="replace") for name, value in raw.items()}

    def number(name: str) -> float | None:
        return float(r[name]) if name in r else None

    def whole(name: str) -> int | None:
        return int(r[name]) if name in r else None

    try:
        return Job(
            id=job_id,
            queue=queue,
            endpoint=cast("Endpoint", r["endpoint"]),
            job_class=r["class"],
            policy=r["policy"],
            state=JobState(r["state"]),
            attempt=int(r.get("attempt", 0)),
            spent=int(r.get("spent", 0)),
            max_attempts=int(r["max_attempts"]),
            accepted_ms=float(r["accepted_ms"]),
            due_ms=float(r["due_ms"]),
            deadline_ms=float(r["deadline_ms"]),
            predicted_tokens=float(r["predicted_tokens"]),
            predicted_ms=float(r["predicted_ms"]),
            slack_ms=float(r["slack_ms"]),
            prediction=Prediction.model_validate_json(r["prediction"]) if r["prediction"] else None,
            started_ms=number("started_ms"),
            first_output_ms=number("first_output_ms"),
            finished_ms=number("finished_ms"),
            prompt_tokens=whole("prompt_tokens"),
            output_tokens=whole("output_tokens"),
            cancel_requested="cancel" in r,
            worker=r.get("worker"),
            error=JobError.model_validate(json.loads(r["error"])) if "error" in r else None,
        )
    except (KeyError, ValueError):
        log.warning("job record cannot be read", extra={"queue": queue, "job_id": job_id})
        return None
