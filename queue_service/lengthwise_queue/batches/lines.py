"""The lines of a batch: cut them out of the input, check them, and write their results. Pure.

`Checker` finds the errors that fail the whole batch before anything runs, as at OpenAI. An error of
one request appears only in its result.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from lengthwise_contract.jobs import EndpointPath
from lengthwise_store.batches.batch import Place

#: The most requests of one batch; OpenAI's limit.
MAX_LINES = 50_000

#: The most errors of an input file that are listed.
MAX_ERRORS = 100

#: The longest `custom_id`, characters.
MAX_CUSTOM_ID = 512

#: How much longer than the largest request body a line may be, bytes.
LINE_OVERHEAD_BYTES = 8192

#: Lines between two moments in which the process may do other work: a block holds thousands of
#: them, and none waits for anything.
YIELD_EVERY = 256

_BLANK_LINES = re.compile(rb"\s*\n")

#: Where the parser stopped. Its line is that within the one line it was given.
_PARSER_AT = re.compile(r" at line (\d+) column (\d+)$")


@dataclass(frozen=True)
class InputLine:
    """One line of the input file; `raw` is None if the line is too long."""

    place: Place
    end: Place  #: Where the next line begins.
    raw: bytes | None


async def cut(
    blocks: AsyncIterator[bytes], start: Place, *, max_bytes: int
) -> AsyncIterator[InputLine]:
    """Cut the lines of a file out of its blocks, from `start` on; skip blank lines.

    Args:
        blocks: The blocks of the file, from that of `start` on.
        start: Where a line begins.
        max_bytes: The longest line, bytes; no more is kept in memory, beside one block.
    """
    begin, number, passed = start, start.block - 1, 0
    buffer = bytearray()
    too_long = False
    async for block in blocks:
        number += 1
        at = start.offset if number == start.block else 0
        while at < len(block):
            if not buffer and not too_long and (blank := _BLANK_LINES.match(block, at)):
                # At once, because a file may have a hundred million of them.
                passed_over = block.count(b"\n", at, blank.end())
                at = blank.end()
                begin = Place(begin.line + passed_over, number, at)
                continue
            newline = block.find(b"\n", at)
            end = len(block) if newline < 0 else newline + 1
            if not too_long and len(buffer) + end - at <= max_bytes:
                buffer += block[at:end]
            else:
                too_long = True
                buffer.clear()
            at = end
            if newline < 0:
                break
            passed += 1
            if passed % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            after = Place(begin.line + 1, number, at)
            if too_long or not buffer.isspace():
                yield InputLine(begin, after, None if too_long else bytes(buffer))
            begin, too_long = after, False
            buffer.clear()
    if too_long or buffer.strip():
        yield InputLine(
            begin, Place(begin.line + 1, number + 1, 0), None if too_long else bytes(buffer)
        )


class BadLine(ValueError):
    """A line is wrong. The attributes are the fields of an OpenAI error."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


@dataclass(frozen=True)
class LineRequest:
    """The request of a valid line."""

    custom_id: str
    model: str
    body: dict[str, Any]


def parse(line: InputLine, endpoint: EndpointPath, max_bytes: int) -> LineRequest:
    """Parse a line.

    Raises:
        BadLine: It requests nothing that this batch can do.
    """
    if line.raw is None:
        raise BadLine("line_too_long", f"The line is longer than {max_bytes} bytes.")
    try:
        value = from_json(line.raw, allow_inf_nan=False)
    except ValueError as exc:
        raise BadLine("invalid_json_line", _not_json(str(exc))) from exc
    if not isinstance(value, dict):
        raise BadLine("invalid_json_line", "The line must be a JSON object.")
    custom_id = value.get("custom_id")
    if custom_id is None:
        raise _missing("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        raise _wrong("custom_id", f"a string of 1 to {MAX_CUSTOM_ID} characters")
    if value.get("method") != "POST":
        raise BadLine("invalid_method", "`method` must be `POST`.", "method")
    if value.get("url") != endpoint:
        raise BadLine("invalid_url", f"`url` must be the batch's endpoint, {endpoint}.", "url")
    body = value.get("body")
    if body is None:
        raise _missing("body")
    if not isinstance(body, dict):
        raise _wrong("body", "an object")
    model = body.get("model")
    if model is None:
        raise _missing("body.model")
    if not isinstance(model, str):
        raise _wrong("body.model", "a string")
    if body.get("stream"):
        raise BadLine(
            "invalid_value", "`stream` must be left out: a batch does not stream.", "body.stream"
        )
    return LineRequest(custom_id, model, body)


def custom_id(line: InputLine) -> str:
    """Return the `custom_id` of a line, valid or not; "" if it cannot be read."""
    try:
        value = from_json(line.raw or b"")
    except ValueError:
        return ""
    found = value.get("custom_id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def body_of(request: LineRequest) -> bytes:
    """Write the body of a line's request, for the engine.

    Raises:
        BadLine: It has a number that JSON cannot express.
    """
    body = to_json(request.body)
    if b"Infinity" in body:  # `1e400` is valid in the input, and is read as infinity
        try:
            from_json(body, allow_inf_nan=False)
        except ValueError as exc:
            raise BadLine(
                "invalid_value", "A number of `body` is too large: at most 1.8e308.", "body"
            ) from exc
    return body


class Checker:
    """Checks a whole input, line by line. It keeps 16 bytes of each `custom_id`, and no line.

    Attributes:
        errors: In OpenAI's form, the first `MAX_ERRORS`.
        total: The number of lines.
        model: The model of the first valid line.
    """

    def __init__(self, endpoint: EndpointPath, max_bytes: int) -> None:
        self.model: str | None = None
        self.total = 0
        self.errors: list[dict[str, Any]] = []
        self._endpoint = endpoint
        self._max_bytes = max_bytes
        self._seen: set[bytes] = set()

    @property
    def gave_up(self) -> bool:
        """Whether to stop: there are too many errors, or too many lines."""
        return len(self.errors) >= MAX_ERRORS or self.total > MAX_LINES

    def take(self, line: InputLine) -> None:
        """Check the next line."""
        self.total += 1
        if self.total > MAX_LINES:
            self.note(
                "too_many_requests",
                f"The file has more than {MAX_LINES} requests. Split it into several batches.",
            )
            return
        try:
            request = parse(line, self._endpoint, self._max_bytes)
            digest = hashlib.blake2b(request.custom_id.encode(), digest_size=16).digest()
            if digest in self._seen:
                raise BadLine(
                    "duplicate_custom_id", "An earlier line has this `custom_id`.", "custom_id"
                )
            self._seen.add(digest)
            if self.model is None:
                self.model = request.model
            elif self.model != request.model:
                raise BadLine(
                    "mismatched_model",
                    "All requests of a batch must be for one model, that of its first line.",
                    "body.model",
                )
        except BadLine as exc:
            self.note(exc.code, exc.message, exc.param, line.place.line)

    def close(self) -> None:
        """Check what only the end of the input shows."""
        if self.total == 0:
            self.note("empty_file", "The file has no requests.")

    def note(
        self, code: str, message: str, param: str | None = None, line: int | None = None
    ) -> None:
        """Add an error; `line` is its number, from 1."""
        self.errors.append({"code": code, "line": line, "message": message, "param": param})


def job_id(batch_id: str, created_ms: int, line: int) -> str:
    """Compute the id of a line's job: always the same, so that a line submitted twice is one job.

    It has the form of a UUIDv7: the batch's time, then the line, so that lines of equal due times
    are served in their order; then a digest of the batch's id.
    """
    digest = int.from_bytes(hashlib.blake2b(batch_id.encode(), digest_size=8).digest()) >> 7
    bits = created_ms << 80 | 0x7 << 76 | (line >> 5) << 64
    bits |= 0b10 << 62 | (line & 31) << 57 | digest
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def answered(job: str, custom_id: str, status: int, body: Any) -> bytes:
    """Write a line of the output file, or (for a status of 400 and up) of the error file."""
    response = {"status_code": status, "request_id": job, "body": body}
    return _line(job, custom_id, response, None)


def unanswered(job: str, custom_id: str, code: str, message: str) -> bytes:
    """Write a line of the error file for a request that was not executed."""
    return _line(job, custom_id, None, {"code": code, "message": message})


def _line(job: str, custom_id: str, response: Any, error: Any) -> bytes:
    fields = {
        "id": f"batch_req_{job.replace('-', '')}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    # An engine may send NaN or Infinity, which are not JSON: the file has null in their place.
    return to_json(fields, inf_nan_mode="null") + b"\n"


def _not_json(problem: str) -> str:
    """Describe a line that is not JSON, by the column: the line's number stands beside it."""
    at = _PARSER_AT.search(problem)
    reason = problem if at is None else problem[: at.start()]
    where = "" if at is None or at[1] != "1" else f", at column {at[2]}"
    hint = ""
    if reason.startswith("EOF"):
        reason, where = "it ends too soon", ""
        hint = " Each line of the file must be one whole JSON object; do not pretty-print it."
    return f"The line is not valid JSON: {reason}{where}.{hint}"


def _missing(field: str) -> BadLine:
    return BadLine("missing_required_parameter", f"`{field}` is missing.", field)


def _wrong(field: str, want: str) -> BadLine:
    return BadLine("invalid_value", f"`{field}` must be {want}.", field)
