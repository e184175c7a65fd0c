"""Reads a request's body, within the size limit, and its JSON. Used by every route with a body.

The bytes are kept as they came: they are what the engine receives. The parsed copy is for checks.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from lengthwise_queue.errors import BadRequest, BodyTooLarge, UnsupportedMedia

M = TypeVar("M", bound=BaseModel)


async def read_body(request: Request, limit: int) -> bytes:
    """Read the whole body, and never hold more than `limit` bytes.

    Raises:
        BodyTooLarge: The body is longer than `limit`, by its header or when it is read.
        UnsupportedMedia: The body is compressed, or its media type is not JSON.
    """
    headers = request.headers
    _check_media(headers.get("content-type", ""), headers.get("content-encoding", ""))
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for piece in request.stream():
        if len(body) + len(piece) > limit:
            raise _too_large(limit)
        body += piece
    return bytes(body)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse a body that must be a JSON object.

    Raises:
        BadRequest: The body is not JSON, or not an object.
    """
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as exc:
        # The parser's message names a line and a column, and never quotes the text.
        raise BadRequest(
            f"The body is not valid JSON: {exc}. Send one JSON object, encoded as UTF-8.",
            code="invalid_json",
        ) from exc
    if not isinstance(value, dict):
        raise BadRequest(
            f"The body must be a JSON object, and is {kind_of(value)}. "
            'Send e.g. {"model": "...", ...}.',
            code="invalid_json",
        )
    return value


def parse_model(raw: bytes, model: type[M]) -> M:
    """Parse a body that Lengthwise defines; unknown fields are errors.

    Raises:
        BadRequest: The body is not JSON, or a field is wrong; `param` names the first such field.
    """
    parse_object(raw)  # for its messages about broken JSON, which are better than pydantic's
    try:
        return model.model_validate_json(raw)
    except ValidationError as exc:
        raise wrong_field(exc) from None


def kind_of(value: object) -> str:
    """Describe a JSON value without quoting it; only a short number is shown."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            shown = repr(value)
            return shown if len(shown) <= 24 else "a very long number"
        case str():
            return "an empty string" if not value else "a string"
        case list():
            return "an empty array" if not value else "an array"
    return "an object"


def _check_media(media: str, encoding: str) -> None:
    kind = media.partition(";")[0].strip().lower()
    # A client that sends no type means JSON. Forms and plain text are refused: a web page can send
    # those to a service on the same machine without the browser asking for permission.
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMedia(
            "The body must be JSON: send it with the header `Content-Type: application/json`."
        )
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMedia(
            "Compressed bodies are not supported: send the body without `Content-Encoding`."
        )


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is over the limit of {limit} bytes. Send a shorter prompt or smaller images, or "
        "ask the operator of this service to raise LENGTHWISE_QUEUE_MAX_BODY_BYTES."
    )


def wrong_field(error: ValidationError) -> BadRequest:
    """Report the first fault of a body; what the client sent is not quoted."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return BadRequest(
            f"`{field}` is not a field of this body. Leave it out, or correct its spelling.",
            param=field,
            code="unknown_field",
        )
    if first["type"] == "missing":
        return BadRequest(
            f"`{field}` is missing; GET /openapi.json describes this body.",
            param=field,
            code="missing_required_parameter",
        )
    message = first["msg"].removeprefix("Value error, ")
    where = f"`{field}` is wrong: " if field else ""
    return BadRequest(f"{where}{message}.", param=field or None, code="invalid_value")
