"""The model and its predictor: one HTTP server in this process that records every call.

Each piece of an answer names the job (`ref`), the call (`run`, unique), and its place, so that a
gap, a repeat or a mixture of two calls shows in the output itself. The prompt of a job is its
`AnswerScript`, in JSON. The predictor returns the prediction of the script. Called by run.py.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from lengthwise_lab.chaos.clients.workload import AnswerScript, read_prompt
from lengthwise_lab.chaos.history import History


class ModelServer:
    """Listens from `start` to `aclose`. Each worker has its own `url(worker)`."""

    def __init__(self, model: str, history: History, kill: Callable[[str], None]) -> None:
        """Bind a port. `kill(worker)` is called when a worker runs a job that must kill it."""
        self.executed = 0
        self._model, self._history, self._kill = model, history, kill
        self._runs = itertools.count(1)
        self._seen: set[str] = set()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._base = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",
        )
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def predictor_url(self) -> str:
        """The URL of the predictor."""
        return self._base + "/predictor"

    def url(self, worker: str) -> str:
        """Return the URL of the engine for this worker."""
        return f"{self._base}/{worker}"

    async def start(self) -> None:
        """Serve, in this event loop."""
        # Not `serve`, which would replace the process's signal handlers.
        self._task = asyncio.create_task(self._server._serve([self._socket]))

    async def aclose(self) -> None:
        """Stop serving."""
        self._server.should_exit = self._server.force_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()

    # ------------------------------------------------------------------ HTTP

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        _, worker, path = scope["path"].split("/", 2)
        if path == "health":
            await _reply(send, 200, {})
        elif path == "v1/models":
            await _reply(send, 200, {"data": [{"id": self._model, "max_model_len": 32_768}]})
        elif path == "v1/predict/batch":
            inputs = json.loads(await _body(receive))["inputs"]
            await _reply(send, 200, {"predictions": [_predict(one) for one in inputs]})
        elif path == "v1/chat/completions":
            body = json.loads(await _body(receive))
            script = read_prompt(body["messages"][-1]["content"])
            await self._answer(worker, script, receive, send)
        else:
            await _reply(send, 404, {"error": {"message": f"no {path} here"}})

    async def _answer(self, worker: str, script: AnswerScript, receive: Any, send: Any) -> None:
        number, ref = next(self._runs), script.ref
        again = ref in self._seen
        self._seen.add(ref)
        self.executed += 1
        self._history.write("execute", "invoke", ref=ref, run=number, worker=worker)
        if script.fate == "killer":
            self._kill(worker)
            await _until_disconnected(receive)
            return
        if script.fate == "refused":
            await _reply(send, 400, {"error": {"message": "simulated refusal", "code": 400}})
            return
        if script.fate == "broken" or (script.fate == "flaky" and not again):
            await _reply(send, 500, {"error": {"message": "simulated failure", "code": 500}})
            return
        disconnected = asyncio.ensure_future(_until_disconnected(receive))
        try:
            done = await self._stream(script, number, send, disconnected)
        finally:
            disconnected.cancel()
        self._history.write("execute", "ok" if done else "fail", ref=ref, run=number)

    async def _stream(
        self, script: AnswerScript, number: int, send: Any, disconnected: asyncio.Future[None]
    ) -> bool:
        """Send the pieces. Return False if the worker disconnected."""
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        loop = asyncio.get_running_loop()
        began, step_s = loop.time(), script.service_ms / 1000 / script.pieces
        for place in range(script.pieces):
            wait_s = began + (place + 1) * step_s - loop.time()
            if wait_s > 0:
                await asyncio.wait([disconnected], timeout=wait_s)
            if disconnected.done():
                return False
            text = f"{script.ref} {number} {place} {script.pieces};"
            last = place == script.pieces - 1
            await _event(send, self._chunk(number, text, "stop" if last else None))
        usage = {"prompt_tokens": 1, "completion_tokens": script.tokens}
        chunk = self._chunk(number, None, None) | {"choices": [], "usage": usage}
        await _event(send, chunk, then=b"data: [DONE]\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True

    def _chunk(self, number: int, text: str | None, finish: str | None) -> dict[str, Any]:
        delta = {} if text is None else {"content": text}
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": self._model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }


def _predict(request: dict[str, Any]) -> dict[str, Any]:
    """Return a distribution with the predicted length as its median."""
    text = request["prompt"] if request.get("prompt") else request["messages"][-1]["content"]
    try:
        tokens = read_prompt(text).predicted_tokens
    except (ValueError, TypeError):
        tokens = 100.0
    return {
        "model_version": "chaos",
        "p10_tokens": tokens * 0.8,
        "p50_tokens": tokens,
        "p90_tokens": tokens * 1.25,
        "mean_tokens": tokens,
        "rank_score": tokens,
    }


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def _until_disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _reply(send: Any, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": data})


async def _event(send: Any, data: dict[str, Any], *, then: bytes = b"") -> None:
    body = b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n" + then
    await send({"type": "http.response.body", "body": body, "more_body": True})
