"""The parts of the OpenAPI document that FastAPI cannot derive from the routes: bodies and errors.

The routes parse their bodies themselves, because the engine must receive the bytes as they came.
So FastAPI does not see the bodies, and each route names the model of its body here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from lengthwise_contract.bodies import ErrorBody
from lengthwise_queue.web.json_schema import inlined

_MEANING = {
    400: "The request is wrong; `param` names the field, the message says what to change",
    401: "The API key is missing or wrong",
    403: "Only an admin's key may do this",
    404: "There is nothing of that name or id, or it belongs to another tenant",
    405: "The URL exists, but not for this method",
    409: "The request conflicts with the current state",
    412: "The queue exists already, and `If-None-Match: *` forbids changing it",
    413: "The body is too large",
    415: "The body is not JSON, or is compressed",
    422: "The idempotency key was used for a different request",
    429: "The queue, or the tenant's share of it, is full, or the tenant's rate limit is reached; "
    "see `Retry-After`",
    502: "The engine failed every attempt; or, with the engine's own status and body, refused the "
    "request",
    503: "Redis does not answer, or the queue is draining; see `Retry-After`. With a `job_id`, "
    "that job may have been accepted, and the message says what becomes of it; else nothing was",
    504: "The job was not finished before its deadline",
}

_RETRY = {
    "Retry-After": {"description": "s, 1 to 120", "schema": {"type": "integer"}},
    "retry-after-ms": {"description": "The same, ms", "schema": {"type": "integer"}},
}

Responses = dict[int | str, dict[str, Any]]


def errors(*statuses: int) -> Responses:
    """Make the `responses` of a route that can return these error statuses."""
    responses: Responses = {}
    for status in statuses:
        responses[status] = {"model": ErrorBody, "description": _MEANING[status]}
        if status in (429, 503):
            responses[status]["headers"] = _RETRY
    return responses


#: The errors of every route that needs a key and reads Redis.
ALWAYS = errors(401, 503)


def json_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Make the `openapi_extra` of a route that parses its JSON body itself."""
    schema = inlined(model.model_json_schema(by_alias=True))
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}
    }


def known(view: type[BaseModel], description: str) -> Responses:
    """Make the 200 of a route whose usual success status is another one."""
    return {200: {"model": view, "description": description}}


def events(description: str) -> Responses:
    """Make the 200 of a route that sends server-sent events."""
    return {200: {"description": description, "content": {"text/event-stream": {}}}}


def document(app: FastAPI) -> dict[str, Any]:
    """Make the OpenAPI document, without FastAPI's 422: a wrong parameter is a 400 here."""
    if app.openapi_schema is None:
        made = FastAPI.openapi(app)
        for operations in made["paths"].values():
            for operation in operations.values():
                unprocessable = operation.get("responses", {}).get("422", {})
                if "HTTPValidationError" in str(unprocessable):
                    del operation["responses"]["422"]
        for unused in ("HTTPValidationError", "ValidationError"):
            made.get("components", {}).get("schemas", {}).pop(unused, None)
        app.openapi_schema = made
    return app.openapi_schema


#: The header that makes a request safe to repeat.
IDEMPOTENCY_KEY: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "A repeated request with the same key returns the same job",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }
    ]
}
