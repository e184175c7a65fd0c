"""An engine that does what a client asks for: calls a tool, answers in JSON, or repeats the prompt.

The simulated engine answers with random words, so clients that want a tool call or an object cannot
be tried on it. This one speaks vLLM's API, and its answers follow from the request.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from lengthwise_worker.engines.simulated.embedded import AppServer

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}

#: What the tools of the tests are called with, and what an object of a schema has, by name.
VALUES: dict[str, Any] = {"city": "Paris", "a": 2, "b": 3, "name": "Ada", "age": 36}


class ToolEngine(AppServer):
    """Listens from `start` to `stop`."""

    def __init__(self, model: str) -> None:
        super().__init__(_app(model))


def _app(model: str) -> FastAPI:
    app = FastAPI()

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {"id": model, "object": "model", "created": 1, "owned_by": "test"}
        return {"object": "list", "data": [entry | {"max_model_len": 4096}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        text = json.dumps(body["messages"])
        if "refuse me" in text or not body["messages"]:
            error = {"message": "no such thing", "type": "BadRequestError", "code": 400}
            return JSONResponse({"error": error}, 400)
        message = _message(body)
        called = "tool_calls" in message
        head = {"id": "chatcmpl-1", "created": 1, "model": model}
        if body.get("stream"):
            return StreamingResponse(
                _events(head, message, called, body), media_type="text/event-stream"
            )
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": None} | message,
            "logprobs": None,
            "finish_reason": "tool_calls" if called else "stop",
        }
        return JSONResponse(
            head | {"object": "chat.completion", "choices": [choice], "usage": USAGE}
        )

    return app


def _message(body: dict[str, Any]) -> dict[str, Any]:
    """The answer: a call of the first tool, an object of the schema, or words."""
    last = body["messages"][-1]
    tools = body.get("tools") or []
    if tools and last["role"] != "tool" and body.get("tool_choice") != "none":
        function = tools[0]["function"]
        arguments = _object(function.get("parameters") or {})
        call = {"name": function["name"], "arguments": json.dumps(arguments)}
        return {"tool_calls": [{"id": "call_1", "type": "function", "function": call}]}
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return {"content": json.dumps(_object(wanted["json_schema"]["schema"]))}
    if wanted.get("type") == "json_object":
        return {"content": json.dumps({"name": "Ada"})}
    content = last.get("content")
    if isinstance(content, list):
        content = " ".join(part.get("text", "") for part in content)
    return {"content": f"You said: {content}"}


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: VALUES.get(name, "x") for name in schema.get("properties", {})}


async def _events(
    head: dict[str, Any], message: dict[str, Any], called: bool, body: dict[str, Any]
) -> AsyncIterator[str]:
    def event(choices: list[Any], **more: Any) -> str:
        chunk = head | {"object": "chat.completion.chunk", "choices": choices} | more
        return f"data: {json.dumps(chunk)}\n\n"

    def delta(fields: dict[str, Any], finish: str | None = None) -> str:
        return event([{"index": 0, "delta": fields, "finish_reason": finish}])

    yield delta({"role": "assistant", "content": ""})
    if called:
        [call] = message["tool_calls"]
        arguments = call["function"]["arguments"]
        begin = call | {"index": 0, "function": call["function"] | {"arguments": ""}}
        yield delta({"tool_calls": [begin]})
        for at in range(0, len(arguments), 5):
            part = {"index": 0, "function": {"arguments": arguments[at : at + 5]}}
            yield delta({"tool_calls": [part]})
    else:
        content = message["content"]
        for at in range(0, len(content), 4):
            yield delta({"content": content[at : at + 4]})
    yield delta({}, "tool_calls" if called else "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        yield event([], usage=USAGE)
    yield "data: [DONE]\n\n"
