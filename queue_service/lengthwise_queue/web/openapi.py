"""What the OpenAPI document says beside the routes: bodies that are read by hand, and errors.

Bodies are parsed by the routes, because the bytes must reach the engine as they came, and because
the messages are better; so FastAPI does not know of them.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query
from pydantic import BaseModel

from lengthwise_contract.bodies import ErrorBody

_MEANING = {
    400: "The request is wrong; `param` names what, the message says what to change",
    401: "No API key, or a wrong one",
    403: "Only an admin's key may do this",
    404: "There is none of that name or id, or it is not yours",
    405: "The URL is there, but not for this method",
    409: "It cannot be done as things stand",
    413: "The body is too large",
    415: "The body is not JSON, or is compressed",
    422: "The idempotency key belongs to a different request",
    429: "The queue, or your share of it, is full, or your minute is spent; see `Retry-After`",
    502: "The engine failed every attempt; or, with its own status and body, refused the request",
    503: "Redis does not answer, or the queue is draining; see `Retry-After`. Nothing was accepted",
    504: "Not answered before its deadline",
}

_RETRY = {
    "Retry-After": {"description": "s, 1 to 120", "schema": {"type": "integer"}},
    "retry-after-ms": {"description": "The same, ms", "schema": {"type": "integer"}},
}

Responses = dict[int | str, dict[str, Any]]

#: Parameters of listings.
After = Annotated[str | None, Query(description="`next_after` of the page before")]
PageSize = Annotated[int, Query(ge=1, le=1000, description="At most so many")]
Whose = Annotated[str | None, Query(description="Another tenant's; for admins")]


def errors(*statuses: int) -> Responses:
    """The `responses` of a route that answers with these statuses when something is wrong."""
    told: Responses = {}
    for status in statuses:
        told[status] = {"model": ErrorBody, "description": _MEANING[status]}
        if status in (429, 503):
            told[status]["headers"] = _RETRY
    return told


#: Every route that needs a key and reads Redis.
ALWAYS = errors(401, 503)


def json_body(schema: dict[str, Any] | type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """The `openapi_extra` of a route that parses its JSON body by hand."""
    if isinstance(schema, type):
        schema = _inlined(schema.model_json_schema(by_alias=True))
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}
    }


def known(view: type[BaseModel], what: str) -> Responses:
    """A 200 of a route whose usual answer is another."""
    return {200: {"model": view, "description": what}}


def events(what: str) -> Responses:
    """A 200 that is a stream of server-sent events."""
    return {
        200: {
            "description": what,
            "content": {"text/event-stream": {}},
        }
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, without the 422s that FastAPI adds: a wrong parameter is a 400 here."""
    if app.openapi_schema is None:
        told = FastAPI.openapi(app)
        for operations in told["paths"].values():
            for operation in operations.values():
                said = operation.get("responses", {}).get("422", {})
                if "HTTPValidationError" in str(said):
                    del operation["responses"]["422"]
        for unused in ("HTTPValidationError", "ValidationError"):
            told.get("components", {}).get("schemas", {}).pop(unused, None)
        app.openapi_schema = told
    return app.openapi_schema


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without `$defs`: their references would point outside of it once it is embedded."""
    defs = schema.pop("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                name = str(node["$ref"]).rsplit("/", 1)[1]
                return walk(defs[name]) | {k: v for k, v in node.items() if k != "$ref"}
            return {key: walk(value) for key, value in node.items()}
        return [walk(item) for item in node] if isinstance(node, list) else node

    return dict(walk(schema))


#: What is checked of a chat body before it reaches the engine; the rest is the engine's business.
CHAT_BODY: dict[str, Any] = {
    "title": "ChatCompletionRequest",
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": {"type": "string", "minLength": 1, "maxLength": 256},
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {"role": {"type": "string"}, "content": {}},
            },
        },
        "stream": {"type": ["boolean", "null"]},
        "max_tokens": {"type": ["integer", "null"], "minimum": 1},
        "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1},
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
    },
}

#: The same of a completion body.
COMPLETION_BODY: dict[str, Any] = {
    "title": "CompletionRequest",
    "type": "object",
    "required": ["model", "prompt"],
    "properties": {
        "model": {"type": "string", "minLength": 1, "maxLength": 256},
        "prompt": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
            ]
        },
        "stream": {"type": ["boolean", "null"]},
        "max_tokens": {"type": ["integer", "null"], "minimum": 1},
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
    },
}

#: The answer to them.
COMPLETION: Responses = {
    200: {
        "description": "The engine's answer as it gave it; with `stream: true`, its events",
        "headers": {"X-Lengthwise-Job-Id": {"schema": {"type": "string"}}},
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {},
        },
    }
}

#: A header that makes a request repeatable.
IDEMPOTENCY_KEY: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "The same request under the same key is the same job",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }
    ]
}
