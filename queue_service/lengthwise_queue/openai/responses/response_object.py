"""OpenAI's response object, from what was asked and what came of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lengthwise_contract.states import JobState
from lengthwise_store.errors import JobEnded
from lengthwise_store.jobs import Job
from lengthwise_store.responses.record import ResponseRecord

JsonObject = dict[str, Any]

#: What ends an answer before its end -> OpenAI's reason.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_id(job_id: str) -> str:
    """The id of the response that a job makes."""
    return f"resp_{job_id.replace('-', '')}"


@dataclass
class Answer:
    """What there is of an answer: the parts of one chat message."""

    text: str | None = None
    calls: list[JsonObject] = field(default_factory=list)  #: id, name, arguments.
    finish_reason: str | None = None
    usage: JsonObject | None = None


def answer_of(chat: JsonObject | None) -> Answer:
    """The answer in a chat completion; None: there is none yet."""
    choices = (chat or {}).get("choices") or [{}]
    message = choices[0].get("message") or {}
    calls = []
    for call in message.get("tool_calls") or []:
        function = call.get("function") or {}
        calls.append(
            {
                "id": call.get("id") or "",
                "name": function.get("name") or "",
                "arguments": function.get("arguments") or "",
            }
        )
    return Answer(
        text=message.get("content") or None,
        calls=calls,
        finish_reason=choices[0].get("finish_reason"),
        usage=(chat or {}).get("usage"),
    )


def turn_of(answer: Answer) -> JsonObject:
    """The answer as a message of the chat that goes on."""
    turn: JsonObject = {"role": "assistant", "content": answer.text}
    if answer.calls:
        turn["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in answer.calls
        ]
    return turn


def ended_well(answer: Answer) -> str:
    """OpenAI's word for an answer that the engine has ended."""
    return "incomplete" if answer.finish_reason in _INCOMPLETE else "completed"


def status_of(job: Job, answer: Answer) -> str:
    """OpenAI's word for where a job is."""
    if job.state is JobState.SUCCEEDED:
        return ended_well(answer)
    if job.state is JobState.CANCELLED or (
        job.cancel_requested and job.state not in (JobState.FAILED, JobState.EXPIRED)
    ):
        return "cancelled"  # also while its worker has not heard of it yet
    if job.state in (JobState.FAILED, JobState.EXPIRED):
        return "failed"
    return "in_progress" if job.attempt > 0 else "queued"


def view(
    record: ResponseRecord,
    status: str,
    answer: Answer,
    *,
    problem: JobEnded | None = None,
    completed_ms: float | None = None,
) -> JsonObject:
    """The response object.

    Args:
        record: What was asked.
        status: OpenAI's.
        answer: What there is of it.
        problem: Why there will be no more.
        completed_ms: When it was completed, ms since the epoch.
    """
    reason = _INCOMPLETE.get(answer.finish_reason or "") if status == "incomplete" else None
    ended = status in ("completed", "incomplete")
    item_status = "completed" if status == "completed" else "incomplete"
    if status in ("queued", "in_progress"):
        item_status = "in_progress"
    return {
        "id": record.id,
        "object": "response",
        "created_at": record.created_ms // 1000,
        "completed_at": int(completed_ms // 1000) if ended and completed_ms else None,
        "status": status,
        "error": _error(problem) if status == "failed" else None,
        "incomplete_details": None if reason is None else {"reason": reason},
        **record.echo,
        "output": output(record, answer, item_status),
        "usage": _usage(answer.usage) if ended else None,
    }


def output(record: ResponseRecord, answer: Answer, status: str) -> list[JsonObject]:
    """The items of an answer."""
    items = [] if answer.text is None else [message_item(record, answer.text, status)]
    return items + [
        call_item(record, place, call, status) for place, call in enumerate(answer.calls)
    ]


def message_item(record: ResponseRecord, text: str | None, status: str) -> JsonObject:
    """The item of what was said; None: nothing yet."""
    return {
        "id": f"msg_{record.id.removeprefix('resp_')}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [] if text is None else [text_part(text)],
    }


def text_part(text: str) -> JsonObject:
    """The content of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(record: ResponseRecord, place: int, call: JsonObject, status: str) -> JsonObject:
    """The item of a function call."""
    own = f"fc_{record.id.removeprefix('resp_')}_{place}"
    return {
        "id": own,
        "type": "function_call",
        "status": status,
        "call_id": call["id"] or own,
        "name": call["name"],
        "arguments": call["arguments"],
    }


def _error(problem: JobEnded | None) -> JsonObject:
    if problem is None:
        return {"code": "server_error", "message": "The response failed, and gave no reason."}
    refused = problem.status is not None and 400 <= problem.status < 500
    return {
        "code": "invalid_prompt" if refused else "server_error",
        "message": problem.message,
    }


def _usage(usage: JsonObject | None) -> JsonObject | None:
    if usage is None:
        return None
    read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": read + written,
    }
