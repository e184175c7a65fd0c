"""One call of a worker to its engine, and the answer to it: pieces that name their job. Pure.

Called by model_server.py.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from lengthwise_lab.chaos.clients.workload import AnswerScript, read_prompt
from lengthwise_lab.chaos.system import sickness
from lengthwise_lab.chaos.system.sickness import Sick


class EngineCall:
    """One request of a worker to its engine."""

    def __init__(self, worker: str, body: dict[str, Any], sick: Sick | None) -> None:
        self.worker, self.sick = worker, sick
        self.stream = body.get("stream") is True
        self.script: AnswerScript | None = None
        with contextlib.suppress(ValueError, TypeError, KeyError):
            self.script = read_prompt(message_text(body["messages"][-1]["content"]))

    @property
    def media_type(self) -> str:
        """The media type of a right answer."""
        return "text/event-stream" if self.stream else "application/json"


class EngineAnswer:
    """The whole answer to one call. Without a script it is one piece."""

    def __init__(self, model: str, number: int, script: AnswerScript | None) -> None:
        self._model, self._number = model, number
        self.service_s = 0.0 if script is None else script.service_ms / 1000
        self.pieces = ["well"]
        self._usage = {"prompt_tokens": 1, "completion_tokens": 1}
        if script is not None:
            pieces = script.pieces
            self.pieces = [f"{script.ref} {number} {place} {pieces};" for place in range(pieces)]
            self._usage["completion_tokens"] = script.tokens

    def events(self) -> list[bytes]:
        """Return the events of a stream: one for each piece, then the usage and the end."""
        last = len(self.pieces) - 1
        events = [
            sickness.as_event(self._chunk({"content": piece}, "stop" if i == last else None))
            for i, piece in enumerate(self.pieces)
        ]
        usage = self._chunk({}, None) | {"choices": [], "usage": self._usage}
        return [*events, sickness.as_event(usage) + b"data: [DONE]\n\n"]

    def blank(self) -> bytes:
        """Return an event without text."""
        return sickness.as_event(self._chunk({"content": ""}, None))

    def body(self) -> bytes:
        """Return the answer that is not a stream."""
        message = {"role": "assistant", "content": "".join(self.pieces)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = self._head("chat.completion")
        return json.dumps(head | {"choices": [choice], "usage": self._usage}).encode()

    def _chunk(self, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._number}",
            "object": kind,
            "created": 0,
            "model": self._model,
        }


def message_text(content: Any) -> str:
    """Return the text of a message: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
