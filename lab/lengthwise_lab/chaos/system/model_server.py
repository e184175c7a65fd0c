"""The model and its predictor, as one HTTP server in this process: it knows what it was asked.

An answer is made of pieces that name the job (`ref`), the call (`run`, unique), and the piece's
place, so that a gap, a repeat or a mixture of two calls shows in the output itself. The prompt of a
job is its `Script`, in JSON; the predictor predicts what the script says, with some error.
Called by run.py.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from lengthwise_lab.chaos.clients.workload import Script, read_prompt
from lengthwise_lab.chaos.history import History


class ModelServer:
    """Listens from `start` to `aclose`; a worker calls it at its own `url(worker)`."""

    def __init__(self, model: str, history: History, kill: Callable[[str], None]) -> None:
        """`kill(worker)` is called when a worker takes a job that is its death."""
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
        """Where the predictor is."""
        return self._base + "/predictor"

    def url(self, worker: str) -> str:
        """Where the engine is for this worker."""
        return f"{self._base}/{worker}"

    async def start(self) -> None:
        """Serve, in this event loop."""
        # Not `serve`: that takes over the process's signal handlers, which are the run's.
        self._task = asyncio.create_task(self._server._serve([self._socket]))

    async def aclose(self) -> None:
        """End."""
        self._server.should_exit = self._server.force_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()

    # ------------------------------------------------------------------ HTTP

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        _, who, path = scope["path"].split("/", 2)
        if path == "health":
            await _reply(send, 200, {})
        elif path == "v1/models":
            await _reply(send, 200, {"data": [{"id": self._model, "max_model_len": 32_768}]})
        elif path == "v1/predict/batch":
            asked = json.loads(await _body(receive))["inputs"]
            await _reply(send, 200, {"predictions": [_predict(one) for one in asked]})
        elif path == "v1/chat/completions":
            body = json.loads(await _body(receive))
            script = read_prompt(body["messages"][-1]["content"])
            await self._answer(who, script, receive, send)
        else:
            await _reply(send, 404, {"error": {"message": f"no {path} here"}})

    async def _answer(self, worker: str, script: Script, receive: Any, send: Any) -> None:
        number, ref = next(self._runs), script.ref
        again = ref in self._seen
        self._seen.add(ref)
        self.executed += 1
        self._history.write("execute", "invoke", ref=ref, run=number, worker=worker)
        if script.fate == "killer":
            self._kill(worker)
            await _hung_up(receive)
            return
        if script.fate == "refused":
            await _reply(send, 400, {"error": {"message": "told to refuse", "code": 400}})
            return
        if script.fate == "broken" or (script.fate == "flaky" and not again):
            await _reply(send, 500, {"error": {"message": "told to break", "code": 500}})
            return
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            done = await self._stream(script, number, send, gone)
        finally:
            gone.cancel()
        self._history.write("execute", "ok" if done else "fail", ref=ref, run=number)

    async def _stream(
        self, script: Script, number: int, send: Any, gone: asyncio.Future[None]
    ) -> bool:
        """Send the pieces; False when the worker hung up."""
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        loop = asyncio.get_running_loop()
        began, step_s = loop.time(), script.service_ms / 1000 / script.pieces
        for place in range(script.pieces):
            wait_s = began + (place + 1) * step_s - loop.time()
            if wait_s > 0:
                await asyncio.wait([gone], timeout=wait_s)
            if gone.done():
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


def _predict(asked: dict[str, Any]) -> dict[str, Any]:
    """The distribution that has the predicted length for its median."""
    text = asked["prompt"] if asked.get("prompt") else asked["messages"][-1]["content"]
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


async def _hung_up(receive: Any) -> None:
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
