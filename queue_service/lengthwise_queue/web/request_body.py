"""Reads a request's body within the size limit, and its JSON. Called by every route with a body.

The bytes are kept as they came: they are what reaches the engine. What is parsed here is a copy,
for checking.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from lengthwise_queue.errors import BadRequest, BodyTooLarge, UnsupportedMedia


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; at most `limit` bytes are ever held.

    Raises:
        BodyTooLarge: It says that it is longer than `limit`, or turns out to be.
        UnsupportedMedia: It is compressed, or declared to be something else than JSON.
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
    """The body as a JSON object.

    Raises:
        BadRequest: It is not JSON, or not an object.
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


def kind_of(value: object) -> str:
    """What a JSON value is, in words; the value itself is shown only if it is a short number."""
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
    # Clients that send no type at all mean JSON. A form or plain text is refused: a web page may
    # send those to a service on this machine without the browser asking anybody.
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMedia(
            "The body must be JSON: send it with the header `Content-Type: application/json`."
        )
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMedia(
            "Compressed bodies are not read: send the body without `Content-Encoding`."
        )


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is over the limit of {limit} bytes. Send a shorter prompt, or raise "
        "LENGTHWISE_QUEUE_MAX_BODY_BYTES."
    )


def wrong_field(error: ValidationError) -> BadRequest:
    """The first thing wrong with one of our own bodies. What was sent is not quoted."""
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
            f"`{field}` is missing; GET /openapi.json shows what this body must hold.",
            param=field,
            code="missing_required_parameter",
        )
    said = first["msg"].removeprefix("Value error, ")
    where = f"`{field}` is wrong: " if field else ""
    return BadRequest(f"{where}{said}.", param=field or None, code="invalid_value")
