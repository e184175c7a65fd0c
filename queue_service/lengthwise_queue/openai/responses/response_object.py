"""OpenAI's response object, made of the request and of the answer so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from lengthwise_contract.states import JobState
from lengthwise_queue.openai.endpoint import JsonObject
from lengthwise_store.errors import JobEnded
from lengthwise_store.jobs import Job
from lengthwise_store.responses.record import ResponseRecord

#: The engine's reason to stop early -> OpenAI's reason for an incomplete response.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_id(job_id: str) -> str:
    """Return the id of the response that a job produces."""
    return f"resp_{job_id.replace('-', '')}"


@dataclass
class AssembledMessage:
    """The engine's answer as far as it has come: the parts of one chat message."""

    text: str | None = None
    reasoning: str | None = None
    calls: list[JsonObject] = field(default_factory=list)  #: id, name, arguments.
    finish_reason: str | None = None
    usage: JsonObject | None = None

    def as_chat_message(self) -> JsonObject:
        """Return the message as a turn of the chat that continues from it."""
        message: JsonObject = {"role": "assistant", "content": self.text}
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in self.calls
            ]
        return message

    def final_status(self) -> str:
        """Return OpenAI's status of a response whose engine has finished."""
        return "incomplete" if self.finish_reason in _INCOMPLETE else "completed"


def message_of(completion: JsonObject | None) -> AssembledMessage:
    """Return the message in a chat completion.

    Args:
        completion: None: there is none yet.
    """
    choices = (completion or {}).get("choices") or [{}]
    message = choices[0].get("message") or {}
    thoughts = reasoning_in(message)
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
    return AssembledMessage(
        text=message.get("content") or None,
        reasoning=thoughts or None,
        calls=calls,
        finish_reason=choices[0].get("finish_reason"),
        usage=(completion or {}).get("usage"),
    )


def reasoning_in(part: JsonObject) -> str:
    """Return the reasoning text in a message or a delta; "": there is none.

    vLLM calls it `reasoning`, and for a while called it both names; others `reasoning_content`.
    """
    found = part.get("reasoning") or part.get("reasoning_content")
    return found if isinstance(found, str) else ""


def status_of(job: Job, message: AssembledMessage) -> str:
    """Return OpenAI's status of a job."""
    if job.state is JobState.SUCCEEDED:
        return message.final_status()
    if job.state is JobState.CANCELLED or (
        job.cancel_requested and job.state not in (JobState.FAILED, JobState.EXPIRED)
    ):
        return "cancelled"  # also before its worker notices
    if job.state in (JobState.FAILED, JobState.EXPIRED):
        return "failed"
    return "in_progress" if job.attempt > 0 else "queued"


def response_object(
    record: ResponseRecord,
    status: str,
    message: AssembledMessage,
    *,
    problem: JobEnded | None = None,
    completed_ms: float | None = None,
) -> JsonObject:
    """Build the response object.

    Args:
        record: What is stored about the request.
        status: OpenAI's.
        message: The answer so far.
        problem: Why the answer will not be completed.
        completed_ms: When it was completed, ms since the epoch.
    """
    reason = _INCOMPLETE.get(message.finish_reason or "") if status == "incomplete" else None
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
        "output": _output(record, message, item_status),
        "usage": _usage(message.usage) if ended else None,
    }


def _output(record: ResponseRecord, message: AssembledMessage, status: str) -> list[JsonObject]:
    items: list[JsonObject] = []
    if message.reasoning is not None:
        items.append(reasoning_item(record, message.reasoning, status))
    if message.text is not None:
        items.append(message_item(record, message.text, status))
    return items + [
        call_item(record, place, call, status) for place, call in enumerate(message.calls)
    ]


def message_item(record: ResponseRecord, text: str | None, status: str) -> JsonObject:
    """Make the output item of the answer's text; None: there is no text yet."""
    return {
        "id": f"msg_{record.id.removeprefix('resp_')}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [] if text is None else [text_part(text)],
    }


def reasoning_item(record: ResponseRecord, text: str | None, status: str) -> JsonObject:
    """Make the output item of the model's reasoning; None: there is no text yet."""
    return {
        "id": f"rs_{record.id.removeprefix('resp_')}",
        "type": "reasoning",
        "status": status,
        "summary": [],
        "content": [] if text is None else [{"type": "reasoning_text", "text": text}],
    }


def text_part(text: str) -> JsonObject:
    """Make the content of a message item."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(record: ResponseRecord, place: int, call: JsonObject, status: str) -> JsonObject:
    """Make the output item of a function call."""
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
        return {"code": "server_error", "message": "The response failed for an unknown reason."}
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
