"""Reads a multipart form piece by piece: its fields, and the bytes of its one file.

Starlette's form parser would write the file to a disk that a container may not have. This module
turns the callbacks of python-multipart's parser into events. Called by the upload of files.
"""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from lengthwise_queue.errors import BadRequest, UnsupportedMedia

#: Limit on all fields together, without the file, bytes.
MAX_FIELD_BYTES = 65_536

#: Most parts of a form.
MAX_PARTS = 32

#: Most headers of a part, and most bytes of one: the parser holds a header until it is complete.
MAX_HEADERS, MAX_HEADER_BYTES = 8, 4096


@dataclass(frozen=True)
class Field:
    """A complete field that is not a file."""

    name: str
    value: str


@dataclass(frozen=True)
class FileBegin:
    """The file begins; its content follows as `bytes`."""

    name: str
    filename: str


FormEvent = Field | FileBegin | bytes


class FormReader:
    """Reads the form of one request: `feed` with each piece of the body, then `close`."""

    def __init__(self, content_type: str) -> None:
        """Prepare the parser.

        Args:
            content_type: The request's `Content-Type`.

        Raises:
            UnsupportedMedia: The body is not a multipart form.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise UnsupportedMedia(
                "The body must be a form: send it as `Content-Type: multipart/form-data` with a "
                "boundary, as OpenAI's clients and `curl -F` do."
            )
        self._events: list[FormEvent] = []
        self._header = [bytearray(), bytearray()]
        self._headers: dict[bytes, bytes] = {}
        self._name: str | None = None  #: Name of the field that is read; None: it is the file.
        self._value = bytearray()
        self._field_bytes = 0
        self._parts = 0
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": lambda d, a, z: self._header[0].extend(d[a:z]),
                    "on_header_value": lambda d, a, z: self._header[1].extend(d[a:z]),
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
                max_header_count=MAX_HEADERS,
                max_header_size=MAX_HEADER_BYTES,
            )
        except FormParserError as exc:
            raise _broken(exc) from exc

    def feed(self, piece: bytes) -> list[FormEvent]:
        """Parse the next piece of the body.

        Raises:
            BadRequest: The form is malformed, or a field is too long.
        """
        try:
            self._parser.write(piece)
        except FormParserError as exc:
            raise _broken(exc) from exc
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Check that the form is complete at the end of the body.

        Raises:
            BadRequest: The form is cut off.
        """
        if not self._ended:
            raise BadRequest("The form is cut off: its last boundary is missing. Send it again.")

    def _part_begin(self) -> None:
        self._headers = {}
        self._value.clear()
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(
                f"The form has more than {MAX_PARTS} parts. Send `file` and `purpose`."
            )

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = [bytearray(), bytearray()]

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode(errors="replace")
        filename = options.get(b"filename")
        if filename is None:
            self._name = name
        else:
            self._name = None
            self._events.append(FileBegin(name, filename.decode(errors="replace")))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            self._events.append(data[start:end])
            return
        self._field_bytes += end - start
        if self._field_bytes > MAX_FIELD_BYTES:
            raise BadRequest(
                f"The form's fields have more than {MAX_FIELD_BYTES} bytes. Send the content as "
                "the part `file`, with a filename.",
                param=self._name,
            )
        self._value += data[start:end]

    def _part_end(self) -> None:
        if self._name is not None:
            self._events.append(Field(self._name, self._value.decode(errors="replace")))

    def _end(self) -> None:
        self._ended = True


def _broken(exc: FormParserError) -> BadRequest:
    return BadRequest(f"The form cannot be read: {exc}. Send it as multipart/form-data again.")
