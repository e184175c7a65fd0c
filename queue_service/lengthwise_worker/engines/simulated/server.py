"""A simulated engine with vLLM's face: `python -m lengthwise_worker.engines.simulated.server --port 8000`.

For load tests at scales that no test machine has, and for tests of every fault of an engine. It
really keeps slots, a waiting line and a pace; only the text is made up.

Length of an answer, tokens: `vllm_xargs.output_tokens` of the body if given (vLLM's own field for
extra parameters); else `max_tokens` with `ignore_eos`; else a length drawn from a hash of the
prompt, the same each time. Then at least `min_tokens`, at most `max_tokens` and the context.
Faults at run time: `POST /admin/faults` (simulated_batch.Faults); observed: `GET /admin/seen`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import time
import uuid
import zlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from lengthwise_contract.prompts import render_prompt
from lengthwise_worker.engines.simulated.batch import CutError, Faults, SimulatedBatch

log = logging.getLogger(__name__)

#: Lengths drawn from a prompt are log-normal-ish: half below this, tokens.
_MEDIAN_TOKENS = 120


class Refusal(Exception):
    """The request is wrong, or a fault says so: becomes an HTTP error in vLLM's shape."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": status}}


class Ask:
    """A request body, checked as vLLM checks it.

    Raises:
        Refusal: It is wrong.
    """

    def __init__(self, body: Any, *, chat: bool, model: str, max_model_len: int) -> None:
        if not isinstance(body, dict):
            raise Refusal(400, "BadRequestError", "The body must be a JSON object.")
        if body.get("model") != model:
            name = body.get("model")
            raise Refusal(404, "NotFoundError", f"The model `{name}` does not exist.")
        prompt = self._prompt(body, chat=chat)
        self.prompt_tokens = max(1, len(prompt.split()))
        room = max_model_len - self.prompt_tokens
        if room < 1:
            raise Refusal(
                400,
                "BadRequestError",
                f"This model's maximum context length is {max_model_len} tokens. However, your "
                f"request has {self.prompt_tokens} input tokens.",
            )
        cap = _whole(body, "max_completion_tokens", _whole(body, "max_tokens", None))
        at_least = _whole(body, "min_tokens", 0, least=0) or 0
        xargs = body.get("vllm_xargs")
        wanted = _whole(xargs, "output_tokens", None) if isinstance(xargs, dict) else None
        if wanted is None and body.get("ignore_eos") is True and cap is not None:
            wanted = cap
        natural = wanted if wanted is not None else _drawn_length(prompt)
        self.output_tokens = max(1, min(max(natural, at_least), cap or room, room))
        self.stopped = self.output_tokens == natural
        self.priority = body.get("priority", 0)
        self.choices = _whole(body, "n", 1) or 1
        self.stream = body.get("stream") is True
        options = body.get("stream_options")
        self.usage_wanted = isinstance(options, dict) and options.get("include_usage") is True
        self.note: dict[str, object] = {
            "priority": self.priority,
            "output_tokens": self.output_tokens,
            "keys": sorted(body),
        }

    @staticmethod
    def _prompt(body: dict[str, Any], *, chat: bool) -> str:
        if not chat:
            prompt = body.get("prompt")
            if not isinstance(prompt, str) or not prompt:
                raise Refusal(400, "BadRequestError", "`prompt` must be a string.")
            return prompt
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refusal(400, "BadRequestError", "`messages` must be a list with messages in it.")
        return render_prompt(messages)

    @property
    def usage(self) -> dict[str, int]:
        """OpenAI's usage object."""
        output = self.output_tokens * self.choices
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": output,
            "total_tokens": self.prompt_tokens + output,
        }


def _whole(body: dict[str, Any], name: str, default: int | None, *, least: int = 1) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or value < least:
        raise Refusal(400, "BadRequestError", f"{name} must be at least {least}, got {value}.")
    return value


def _drawn_length(prompt: str) -> int:
    """A length for a prompt, tokens: the same each time, spread over two orders of magnitude."""
    uniform = (zlib.crc32(prompt.encode()) + 0.5) / 2**32
    return max(1, round(_MEDIAN_TOKENS * math.exp(math.log(uniform / (1 - uniform)) * 0.6)))


class Answering:
    """One answer in the making: the token loop, and its OpenAI dress, plain or streamed."""

    def __init__(self, ask: Ask, batch: SimulatedBatch, faults: Faults, *, chat: bool) -> None:
        self._ask, self._batch, self._faults, self._chat = ask, batch, faults, chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": "",
        }

    async def _tokens(self) -> AsyncIterator[int]:
        ask, seen = self._ask, self._batch.seen
        done = False
        try:
            async with self._batch.slot(ask.priority, ask.note):
                async for token in self._batch.tokens(ask.output_tokens, self._faults):
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

    def _piece(self, choice: int, text: str | None, finish: str | None) -> dict[str, Any]:
        if not self._chat:
            return {"index": choice, "text": text or "", "logprobs": None, "finish_reason": finish}
        delta = {} if text is None else {"content": text}
        return {"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}

    @property
    def _finish_reason(self) -> str:
        return "stop" if self._ask.stopped else "length"

    def _event(self, model: str, choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        event = {**self._head, "model": model, "object": kind, "choices": choices}
        if self._ask.usage_wanted:
            event["usage"] = usage
        return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"

    async def stream(self, model: str) -> AsyncIterator[bytes]:
        """The answer as SSE."""
        ask, last = self._ask, self._ask.output_tokens - 1
        async for token in self._tokens():
            if token == self._faults.error_after_tokens:
                refusal = Refusal(self._faults.error_code, "InternalServerError", "told to fail")
                yield b"data: " + json.dumps(refusal.body).encode() + b"\n\n"
                yield b"data: [DONE]\n\n"
                return
            finish = self._finish_reason if token == last else None
            for choice in range(ask.choices):
                yield self._event(model, [self._piece(choice, _word(token), finish)])
        if ask.usage_wanted:
            yield self._event(model, [], ask.usage)
        yield b"data: [DONE]\n\n"

    async def whole(self, model: str) -> dict[str, Any]:
        """The answer as one body."""
        words = [_word(token) async for token in self._tokens()]
        choices = []
        for index in range(self._ask.choices):
            choice: dict[str, Any] = {
                "index": index,
                "logprobs": None,
                "finish_reason": self._finish_reason,
            }
            if self._chat:
                choice["message"] = {"role": "assistant", "content": "".join(words)}
            else:
                choice["text"] = "".join(words)
            choices.append(choice)
        kind = "chat.completion" if self._chat else "text_completion"
        return {
            **self._head,
            "model": model,
            "object": kind,
            "choices": choices,
            "usage": self._ask.usage,
        }


def _word(token: int) -> str:
    return f" w{token}"


def create_app(*, model: str, max_model_len: int, batch: SimulatedBatch) -> FastAPI:
    """The HTTP face of one simulated engine."""
    app = FastAPI(title="Simulated engine", docs_url=None, redoc_url=None)

    async def complete(request: Request, *, chat: bool) -> Response:
        batch.seen.requests += 1
        faults = batch.faults_of_request()
        if faults.status is not None:
            batch.seen.refused += 1
            refusal = Refusal(faults.status, "ServiceUnavailableError", "told to refuse")
            headers = {}
            if faults.retry_after_s is not None:
                headers["Retry-After"] = f"{faults.retry_after_s:g}"
            return JSONResponse(refusal.body, refusal.status, headers)
        try:
            body = json.loads(await request.body())
            ask = Ask(body, chat=chat, model=model, max_model_len=max_model_len)
            if ask.priority != 0 and not batch.by_priority:
                raise Refusal(
                    400,
                    "BadRequestError",
                    f"Got priority {ask.priority} but Priority scheduling is not enabled.",
                )
        except ValueError as exc:
            return JSONResponse(Refusal(400, "BadRequestError", str(exc)).body, 400)
        except Refusal as exc:
            return JSONResponse(exc.body, exc.status)
        answering = Answering(ask, batch, faults, chat=chat)
        if ask.stream:
            return StreamingResponse(answering.stream(model), media_type="text/event-stream")
        return await _unless_hung_up(request, answering.whole(model))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await complete(request, chat=True)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await complete(request, chat=False)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        card = {"id": model, "object": "model", "created": 0, "owned_by": "vllm"}
        return {"object": "list", "data": [card | {"max_model_len": max_model_len}]}

    @app.get("/health")
    async def health() -> Response:
        batch.seen.probes += 1
        return Response(status_code=503 if batch.faults().unhealthy else 200)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        labels = f'{{model_name="{model}",engine="0"}}'
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{labels} {batch.running}",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{labels} {batch.waiting}",
        ]
        return PlainTextResponse("\n".join(lines) + "\n")

    @app.post("/admin/faults")
    async def set_faults(faults: Faults) -> Faults:
        batch.misbehave(faults)
        return faults

    @app.get("/admin/seen")
    async def seen() -> dict[str, Any]:
        running = {"running": batch.running, "waiting": batch.waiting}
        return {**vars(batch.seen), **running, "started": list(batch.seen.started)}

    return app


async def _unless_hung_up(request: Request, work: Any) -> Response:
    """The body that `work` makes, unless the client is gone before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(await task) if task.done() else Response(status_code=499)
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m lengthwise_worker.engines.simulated.server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="simulated", help="served model name")
    parser.add_argument("--slots", type=int, default=16, help="answers at once (max_num_seqs)")
    parser.add_argument("--tokens-per-s", type=float, default=50.0, help="speed of each slot")
    parser.add_argument("--prefill-ms", type=float, default=0.0, help="from slot to first token")
    parser.add_argument("--max-model-len", type=int, default=8192, help="tokens")
    parser.add_argument("--scheduling-policy", choices=["fcfs", "priority"], default="fcfs")
    args = parser.parse_args()
    batch = SimulatedBatch(
        slots=args.slots,
        tokens_per_s=args.tokens_per_s,
        prefill_s=args.prefill_ms / 1000,
        by_priority=args.scheduling_policy == "priority",
    )
    app = create_app(model=args.model, max_model_len=args.max_model_len, batch=batch)
    uvicorn.run(app, host=args.host, port=args.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
