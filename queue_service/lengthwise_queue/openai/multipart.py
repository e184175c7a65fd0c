"""A multipart form as it comes: its fields, and the bytes of its one file, never the whole body.

Starlette's own form would spool the file to a disk that a container may not have. The parser is
python-multipart's; this hands its callbacks on, in order. Called by the upload of files.
"""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from lengthwise_queue.errors import BadRequest, UnsupportedMedia

#: Of all fields that are not the file, bytes.
MAX_FIELD_BYTES = 65_536

#: Parts of a form.
MAX_PARTS = 32


@dataclass(frozen=True)
class Field:
    """A field that is not a file, whole."""

    name: str
    value: str


@dataclass(frozen=True)
class FileBegin:
    """The file begins; its content follows as `bytes`."""

    name: str
    filename: str


FormEvent = Field | FileBegin | bytes


class FormReader:
    """One request's form. `feed` it the body piece by piece, then `close` it."""

    def __init__(self, content_type: str) -> None:
        """Nothing is read yet.

        Args:
            content_type: The request's `Content-Type`.

        Raises:
            UnsupportedMedia: It is no multipart form.
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
        self._name: str | None = None  #: Of the field that is being read; None: it is the file.
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
            )
        except FormParserError as exc:
            raise _broken(exc) from exc

    def feed(self, piece: bytes) -> list[FormEvent]:
        """What a further piece of the body brings.

        Raises:
            BadRequest: It is not what a form looks like, or a field is too long.
        """
        try:
            self._parser.write(piece)
        except FormParserError as exc:
            raise _broken(exc) from exc
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """The body has ended.

        Raises:
            BadRequest: The form has not.
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
