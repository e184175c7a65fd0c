"""The parts of a request on which its length is predicted, and the predictor's request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lengthwise_contract.prediction import PredictRequest
from lengthwise_contract.prompts import (
    INSTRUCTION_ROLES,
    MAX_PROMPT_CHARS,
    clip,
    message_text,
)

#: The most that is sent of the system prompts, characters: the predictor does not read them.
_INSTRUCTION_CHARS = 4096

#: The most messages that are sent.
_MOST_MESSAGES = 1000


@dataclass(frozen=True, kw_only=True)
class RequestText:
    """The parts of a parsed request on which its length is predicted.

    Attributes:
        text: What the predictor reads; None: no text.
        instructions: The system prompt.
        messages: Of a chat; None: a completion.
        prompts: Of a completion.
        facts: From `request_facts`.
        answers: How many answers are requested.
    """

    text: str | None
    instructions: str
    messages: Sequence[Mapping[str, Any]] | None
    prompts: Sequence[Any]
    facts: Mapping[str, Any]
    answers: int


def predict_request(
    queue: str, asked: RequestText, *, application: str | None, view: bool
) -> PredictRequest:
    """Make the predictor's request; a chat that is too long to be read whole is sent as text."""
    known: dict[str, Any] = {"application": application, "view": view, **asked.facts}
    messages = None if asked.messages is None else _messages(asked.messages, asked.instructions)
    if messages is None:
        return PredictRequest(model=queue, prompt=asked.text, **known)
    return PredictRequest(model=queue, messages=messages, **known)


def _messages(
    messages: Sequence[Mapping[str, Any]], instructions: str
) -> list[dict[str, Any]] | None:
    """Return the texts of a chat with their roles; None: longer than the predictor reads."""
    leading = [{"role": "system", "content": clip(instructions, _INSTRUCTION_CHARS)}]
    found = leading if instructions else []
    size, behind = 0, False
    for message in messages:
        role = str(message.get("role") or "user")
        behind = behind or role not in INSTRUCTION_ROLES
        if not behind:
            continue
        text = message_text(message.get("content"))
        size += len(text)
        if size > MAX_PROMPT_CHARS or len(found) >= _MOST_MESSAGES:
            return None
        found.append({"role": role, "content": text})
    return found or None
