"""The conversation that a response continues: the turns of earlier responses."""

from __future__ import annotations

from dataclasses import dataclass, field

from lengthwise_contract.states import JobState
from lengthwise_queue.errors import BadRequest, BodyTooLarge
from lengthwise_queue.openai.endpoint import JsonObject
from lengthwise_queue.openai.partial_response import partial_response
from lengthwise_queue.openai.responses.input_items import messages_of
from lengthwise_queue.openai.responses.request import TranslatedRequest
from lengthwise_queue.openai.responses.response_object import message_of
from lengthwise_queue.service import Service
from lengthwise_store.responses.record import ResponseRecord


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What came before a response; empty if it continues none."""

    previous: ResponseRecord | None = None
    ids: list[str] = field(default_factory=list)  #: Of the responses, the oldest first.
    messages: list[JsonObject] = field(default_factory=list)  #: Of all turns.
    last_turn: list[JsonObject] = field(default_factory=list)  #: Those of `previous`.


async def continued(service: Service, tenant: str, translated: TranslatedRequest) -> Conversation:
    """Read the conversation that a request continues.

    Raises:
        BadRequest: The response that it names cannot be continued.
    """
    if translated.previous_response_id is None:
        return Conversation()
    record = await service.responses.get(tenant, translated.previous_response_id)
    job = None if record is None else await service.store.get(record.queue, record.job_id)
    if record is None or job is None or job.state is not JobState.SUCCEEDED:
        raise _not_found()
    before = await service.responses.turns(record.earlier)
    if before is None:
        raise _not_found()
    answer = message_of(await partial_response(service.store, job))
    turn = [*messages_of(record.items), answer.as_chat_message()]
    return Conversation(
        previous=record,
        ids=[*record.earlier, record.id],
        messages=before + turn,
        last_turn=turn,
    )


def too_long(size: int, limit: int) -> BodyTooLarge:
    """Make the error for a request that is too large together with its conversation, bytes."""
    return BodyTooLarge(
        f"With the conversation that `previous_response_id` continues, the request has {size} "
        f"bytes, and {limit} is the limit. Start a new conversation with a summary of this one in "
        "`input`, or ask the operator of this service to raise LENGTHWISE_QUEUE_MAX_BODY_BYTES.",
        param="previous_response_id",
    )


def _not_found() -> BadRequest:
    return BadRequest(
        "`previous_response_id` must name a response of yours that is complete and still kept "
        "(an hour). Send the earlier turns in `input` instead.",
        param="previous_response_id",
        code="previous_response_not_found",
    )
