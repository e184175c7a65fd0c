"""Write the answer of a simulated engine: one token at a time, as OpenAI events or as one body.

Called by server.py.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from lengthwise_worker.engines.simulated.batch import CutError, Faults, SimulatedBatch
from lengthwise_worker.engines.simulated.request import SimulatedError, SimulatedRequest


class SimulatedResponse:
    """The answer to one request. Call `stream` or `whole`, once."""

    def __init__(
        self,
        request: SimulatedRequest,
        batch: SimulatedBatch,
        faults: Faults,
        *,
        chat: bool,
        model: str,
    ) -> None:
        self._request, self._batch, self._faults = request, batch, faults
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events, `lump_tokens` tokens in each write."""
        lump: list[bytes] = []
        async for event in self._events():
            lump.append(event)
            if len(lump) >= self._faults.lump_tokens * self._request.choices:
                yield b"".join(lump)
                lump.clear()
        if lump:
            yield b"".join(lump)

    async def _events(self) -> AsyncIterator[bytes]:
        request, last = self._request, self._request.output_tokens - 1
        async for token in self._tokens():
            if self._faults.garbage == "ends" and token > last // 2:
                return
            if token == self._faults.error_after_tokens:
                error = SimulatedError(
                    self._faults.error_code, "InternalServerError", "simulated failure"
                )
                yield b"data: " + json.dumps(error.body).encode() + b"\n\n"
                yield b"data: [DONE]\n\n"
                return
            finish = self._finish_reason if token == last else None
            for choice in range(request.choices):
                yield self._event([self._piece(choice, self._word(token), finish)])
        if request.usage_wanted:
            yield self._event([], request.usage)
        yield b"data: [DONE]\n\n"

    async def whole(self) -> dict[str, Any]:
        """Return the answer as one body."""
        text = "".join([self._word(token) async for token in self._tokens()])
        choices = []
        for index in range(self._request.choices):
            choice: dict[str, Any] = {
                "index": index,
                "logprobs": None,
                "finish_reason": self._finish_reason,
            }
            if self._chat:
                choice["message"] = {"role": "assistant", "content": text}
            else:
                choice["text"] = text
            choices.append(choice)
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": self._request.usage}

    async def _tokens(self) -> AsyncIterator[int]:
        request, seen = self._request, self._batch.seen
        done = False
        try:
            async with self._batch.slot(request.priority, request.summary):
                async for token in self._batch.tokens(request.output_tokens, self._faults):
                    if token == self._faults.exit_after_tokens:
                        os._exit(1)
                    yield token
            done = True
        except CutError:
            done = True
            raise
        finally:
            seen.answered += done
            seen.aborted += not done

    @property
    def _finish_reason(self) -> str:
        return "stop" if self._request.stopped else "length"

    def _piece(self, choice: int, text: str, finish: str | None) -> dict[str, Any]:
        head = {"index": choice, "logprobs": None, "finish_reason": finish}
        return head | ({"delta": {"content": text}} if self._chat else {"text": text})

    def _event(self, choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        event = {**self._head, "object": kind, "choices": choices}
        if self._request.usage_wanted:
            event["usage"] = usage
        return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"

    def _word(self, token: int) -> str:
        return f" w{token}".ljust(self._faults.token_bytes or 0, "x")
