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

from lengthwise_lab.chaos.clients.workload import read_prompt
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system import sickness
from lengthwise_lab.chaos.system.engine_answer import EngineAnswer, EngineCall, message_text
from lengthwise_lab.chaos.system.sickness import OTHER_MODEL, Sick, Sickness

#: The context that every engine lists, which the workers publish in the queue's settings.
MAX_MODEL_LEN = 32_768


class ModelServer:
    """Listens from `start` to `aclose`. Each worker has an engine of its own, at its own path."""

    def __init__(self, model: str, history: History, kill: Callable[[str], None]) -> None:
        """Bind a port. `kill(worker)` is called when a worker runs a job that must kill it."""
        self.executed = 0
        self._model, self._history, self._kill = model, history, kill
        self._runs = itertools.count(1)
        self._seen: set[str] = set()
        self._sick: dict[str, Sick] = {}
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        #: The port. The first part of a path is the name of the worker, or `predictor`.
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="critical",
        )
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def predictor_url(self) -> str:
        """The URL of the predictor."""
        return f"http://127.0.0.1:{self.port}/predictor"

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

    # ------------------------------------------------------------------ sickness

    def sicken(self, worker: str, sick: Sick) -> None:
        """Make the engine of a worker sick from now on."""
        self._sick[worker] = sick

    def cure(self, worker: str) -> None:
        """Make the engine of a worker well again."""
        sick = self._sick.pop(worker, None)
        if sick is not None:
            sick.over.set()

    # ------------------------------------------------------------------ HTTP

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        _, worker, path = scope["path"].split("/", 2)
        sick = self._sick.get(worker)
        if path == "health":
            await _reply(send, 200, {})
        elif path == "v1/models":
            wrong = sick is not None and sick.kind is Sickness.WRONG_MODEL
            card = {"id": OTHER_MODEL if wrong else self._model, "max_model_len": MAX_MODEL_LEN}
            await _reply(send, 200, {"data": [card]})
        elif path == "v1/predict/batch":
            inputs = json.loads(await _body(receive))["inputs"]
            await _reply(send, 200, {"predictions": [_predict(one) for one in inputs]})
        elif path == "v1/chat/completions":
            body = json.loads(await _body(receive))
            await self._answer(EngineCall(worker, body, sick), receive, send)
        else:
            await _reply(send, 404, {"error": {"message": f"no {path} here"}})

    async def _answer(self, call: EngineCall, receive: Any, send: Any) -> None:
        number, script = next(self._runs), call.script
        answer = EngineAnswer(self._model, number, script)
        disconnected = asyncio.ensure_future(_until_disconnected(receive))
        try:
            if script is None:  # a probe of the worker, or another request without a script
                await self._respond(call, answer, disconnected, send)
                return
            again = script.ref in self._seen
            self._seen.add(script.ref)
            self.executed += 1
            fields = {"sick": call.sick.kind} if call.sick and call.sick.fails else {}
            self._history.write(
                "execute", "invoke", ref=script.ref, run=number, worker=call.worker, **fields
            )
            if script.fate == "killer" and not fields:
                self._kill(call.worker)
                await disconnected
                return
            if script.fate == "refused" and not fields:
                await _reply(send, 400, {"error": {"message": "simulated refusal", "code": 400}})
                return
            if (script.fate == "broken" or (script.fate == "flaky" and not again)) and not fields:
                await _reply(send, 500, {"error": {"message": "simulated failure", "code": 500}})
                return
            done = await self._respond(call, answer, disconnected, send)
            self._history.write("execute", "ok" if done else "fail", ref=script.ref, run=number)
        finally:
            disconnected.cancel()

    async def _respond(
        self, call: EngineCall, answer: EngineAnswer, disconnected: asyncio.Future[None], send: Any
    ) -> bool:
        """Answer as the engine can at present. Return whether the answer is whole."""
        sick = call.sick
        if sick is None:
            return await _send_steadily(call, answer, disconnected, send)
        variant, sick.calls = sick.calls, sick.calls + 1
        problem = sickness.error(sick, self._model)
        if problem is not None:
            await _reply(send, *problem)
            return False
        if sick.kind is Sickness.HANG:
            await sick.hang(disconnected)
            if not disconnected.done():
                await _reply(send, 503, {"error": {"message": "restarting", "code": 503}})
            return False
        parts = answer.events() if call.stream else [answer.body()]
        if sick.kind is Sickness.HANG_MIDWAY:
            whole = b"".join(parts)
            await _start(send, call.media_type)
            await _write(send, whole[: len(whole) // 2])
            await sick.hang(disconnected)
            return False  # the server closes a connection whose response is not complete
        if sick.kind is Sickness.GARBAGE:
            whole = b"".join(parts)
            media_type, writes = sickness.garbage(variant, whole, stream=call.stream)
            await _start(send, media_type)
        else:
            await asyncio.wait([disconnected], timeout=answer.service_s / 2)
            await _start(send, call.media_type)
            writes = sickness.lumps(variant, parts, answer.blank()) if call.stream else parts
        for data in writes:
            if disconnected.done():
                return False
            await _write(send, data)
        await _end(send)
        return not sick.fails


async def _send_steadily(
    call: EngineCall, answer: EngineAnswer, disconnected: asyncio.Future[None], send: Any
) -> bool:
    """Send the pieces at equal intervals. Return False if the worker disconnected."""
    loop = asyncio.get_running_loop()
    began, step_s = loop.time(), answer.service_s / len(answer.pieces)
    if not call.stream:
        await asyncio.wait([disconnected], timeout=answer.service_s)
        if disconnected.done():
            return False
        await _start(send, call.media_type)
        await _write(send, answer.body())
        await _end(send)
        return True
    await _start(send, call.media_type)
    for place, event in enumerate(answer.events()):
        wait_s = began + min(place + 1, len(answer.pieces)) * step_s - loop.time()
        if wait_s > 0:
            await asyncio.wait([disconnected], timeout=wait_s)
        if disconnected.done():
            return False
        await _write(send, event)
    await _end(send)
    return True


def _predict(request: dict[str, Any]) -> dict[str, Any]:
    """Return a distribution with the predicted length as its median."""
    try:
        prompt = request.get("prompt") or message_text(request["messages"][-1]["content"])
        tokens = read_prompt(prompt).predicted_tokens
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


async def _start(send: Any, media_type: str) -> None:
    head = [(b"content-type", media_type.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})


async def _write(send: Any, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _end(send: Any) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})
