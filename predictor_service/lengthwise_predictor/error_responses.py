"""HTTP error responses in the shape of OpenAI's error object.

`STATUSES` is the only place where an error class is given its HTTP status.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from lengthwise_predictor.errors import (
    BadRequest,
    BodyTooLarge,
    ModelUnusable,
    NoSuchModel,
    NotReady,
    Overloaded,
    PredictorError,
)

#: HTTP status of each error class; the nearest base class counts, and every other error is 500.
STATUSES: dict[type[PredictorError], int] = {
    BodyTooLarge: 413,
    NoSuchModel: 404,
    BadRequest: 400,
    Overloaded: 503,
    NotReady: 503,
    ModelUnusable: 500,
}


def error_response(exc: PredictorError) -> Response:
    """Return the response for an error: its status, OpenAI's error object, and Retry-After."""
    status = next((STATUSES[c] for c in type(exc).__mro__ if c in STATUSES), 500)
    headers = {} if exc.retry_after_s is None else {"Retry-After": str(exc.retry_after_s)}
    return _error_body(status, exc.message, exc.type, exc.code, exc.param, headers)


async def http_error(request: Request, exc: Exception) -> Response:
    """Answer an unknown path or method in the same shape as every other error."""
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    detail = exc.detail if isinstance(exc, HTTPException) else exc
    failure = f"{request.method} {request.url.path}: {detail}"
    return _error_body(
        status,
        f"{failure}; the predictor serves POST /v1/predict, /v1/predict/batch and /v1/rank, "
        "GET /v1/model, /v1/models, /healthz, /readyz and /metrics",
        "invalid_request_error",
        "not_found" if status == 404 else "invalid_request",
        None,
        dict(getattr(exc, "headers", None) or {}),
    )


def _error_body(
    status: int, message: str, kind: str, code: str, param: str | None, headers: dict[str, str]
) -> Response:
    body: dict[str, Any] = {
        "error": {"message": message, "type": kind, "param": param, "code": code}
    }
    return Response(
        json.dumps(body), status_code=status, headers=headers, media_type="application/json"
    )
