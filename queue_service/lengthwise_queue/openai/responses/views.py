"""The response object of a stored response, in its current state."""

from __future__ import annotations

from lengthwise_contract.states import TERMINAL
from lengthwise_queue.errors import ObjectNotFound
from lengthwise_queue.openai.endpoint import JsonObject
from lengthwise_queue.openai.partial_response import partial_response
from lengthwise_queue.openai.responses.response_object import (
    AssembledMessage,
    message_of,
    response_object,
    status_of,
)
from lengthwise_queue.service import Service
from lengthwise_store.jobs import Job
from lengthwise_store.output_reader import JobEnd
from lengthwise_store.responses.record import ResponseRecord


async def job_of(service: Service, record: ResponseRecord) -> Job:
    """Return the job of a response.

    Raises:
        ObjectNotFound: It is no longer kept.
    """
    job = await service.store.get(record.queue, record.job_id)
    if job is None:
        raise not_found()
    return job


def not_found() -> ObjectNotFound:
    """Make the error for a response that a tenant does not have."""
    return ObjectNotFound(
        "There is no such response. Its id may be wrong, it was made with `store: false`, it was "
        "deleted, or it ended too long ago to be kept.",
        param="response_id",
    )


async def view(service: Service, record: ResponseRecord) -> JsonObject:
    """Return the response object in its current state."""
    job = await job_of(service, record)
    message = AssembledMessage()
    if job.attempt > 0:
        message = message_of(await partial_response(service.store, job))
    problem = None
    if job.state in TERMINAL:
        end = JobEnd(state=job.state, error=job.error, prompt_tokens=None, output_tokens=None)
        problem = end.problem(job.id)
    return response_object(
        record,
        status_of(job, message),
        message,
        problem=problem,
        completed_ms=job.finished_ms,
    )
