"""The HTTP API of a simulated engine: vLLM's, and `/admin` to set faults and read counters.

`POST /admin/faults` sets `batch.Faults`; `GET /admin/seen` returns `batch.EngineCounters`.
Called by __main__.py and embedded.py.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse

from lengthwise_worker.engines.simulated.batch import Faults, SimulatedBatch
from lengthwise_worker.engines.simulated.request import SimulatedError, SimulatedRequest
from lengthwise_worker.engines.simulated.response import SimulatedResponse


def create_app(*, model: str, max_model_len: int, batch: SimulatedBatch) -> FastAPI:
    """Build the HTTP app of one simulated engine."""
    app = FastAPI(title="Simulated engine", docs_url=None, redoc_url=None)

    async def complete(request: Request, *, chat: bool) -> Response:
        batch.seen.requests += 1
        faults = batch.faults_of_request()
        if faults.status is not None:
            batch.seen.refused += 1
            error = SimulatedError(faults.status, "ServiceUnavailableError", "simulated refusal")
            headers = {}
            if faults.retry_after_s is not None:
                headers["Retry-After"] = f"{faults.retry_after_s:g}"
            return JSONResponse(error.body, error.status, headers)
        if faults.hang:
            await _until_disconnected(request)
            batch.seen.aborted += 1
            return Response(status_code=499)
        served = faults.model or model
        try:
            body = json.loads(await request.body())
            parsed = SimulatedRequest(body, chat=chat, model=served, max_model_len=max_model_len)
            _refuse(body, faults.refuse_fields)
            if parsed.priority != 0 and not batch.by_priority:
                raise SimulatedError(
                    400,
                    "BadRequestError",
                    f"Got priority {parsed.priority} but Priority scheduling is not enabled.",
                )
        except ValueError as exc:
            return JSONResponse(SimulatedError(400, "BadRequestError", str(exc)).body, 400)
        except SimulatedError as exc:
            return JSONResponse(exc.body, exc.status)
        if faults.garbage not in (None, "ends"):
            return _garbage(faults.garbage, stream=parsed.stream)
        answer = SimulatedResponse(parsed, batch, faults, chat=chat, model=served)
        if parsed.stream:
            return StreamingResponse(answer.stream(), media_type="text/event-stream")
        response = await _unless_disconnected(request, answer.whole())
        if faults.garbage == "ends":
            return Response(response.body[: len(response.body) // 2], media_type="application/json")
        return response

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await complete(request, chat=True)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await complete(request, chat=False)

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        faults = batch.faults()
        if faults.hang_probes:
            await _until_disconnected(request)
        card = {"id": faults.model or model, "object": "model", "created": 0, "owned_by": "vllm"}
        return {"object": "list", "data": [card | {"max_model_len": max_model_len}]}

    @app.get("/health")
    async def health(request: Request) -> Response:
        batch.seen.probes += 1
        if batch.faults().hang_probes:
            await _until_disconnected(request)
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


def _refuse(body: Any, fields: Sequence[str]) -> None:
    """Refuse a request with one of these fields.

    Raises:
        SimulatedError: It has one. The words are those of a server that checks with pydantic.
    """
    for name in fields:
        if isinstance(body, dict) and name in body:
            message = f"[{{'type': 'extra_forbidden', 'loc': ('body', '{name}')}}]"
            raise SimulatedError(422, "UnprocessableEntityError", message)


def _garbage(kind: str | None, *, stream: bool) -> Response:
    """Return 200 with something that is no answer."""
    media_type = "text/event-stream" if stream else "application/json"
    match kind:
        case "bytes":
            return Response(random.randbytes(2000), media_type=media_type)  # noqa: S311
        case "html":
            return HTMLResponse("<html><body>It works!</body></html>")
        case "json":
            return JSONResponse({"status": "ok", "data": []})
        case _:
            return Response(b"", media_type=media_type)


async def _unless_disconnected(
    request: Request, work: Coroutine[Any, Any, dict[str, Any]]
) -> Response:
    """Return the body that `work` makes; cancel `work` if the client disconnects first."""
    answer = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_until_disconnected(request))
    try:
        await asyncio.wait({answer, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(await answer) if answer.done() else Response(status_code=499)
    finally:
        for task in (answer, disconnected):
            task.cancel()
        await asyncio.gather(answer, disconnected, return_exceptions=True)


async def _until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
