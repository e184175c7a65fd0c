"""The bytes of a predictor's view of a request: numbers and words by which requests are compared.

The predictor writes them in the pass that it makes anyway. The queue service stores them with the
job and learns from them. They travel in base64 in `Prediction.view`.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass

#: Buckets of hashed tokens and token pairs: a word of a view is a number below this.
BUCKETS = 65_536

#: The parts of a view's numbers, in their order.
PARTS = ("s", "spread", "diff", "counts", "kernel", "state")

#: Most bytes of a packed view.
MOST_BYTES = 4096

_HEADER = struct.Struct("<BI6HH")  # format, basis, columns of each part, words
_FORMAT = 1


@dataclass(frozen=True)
class RequestView:
    """What a predictor saw in one request.

    Attributes:
        basis: A number of the predictor's version: two views are comparable if theirs is equal.
        widths: Columns of each of `PARTS`: log p50 of any LLM's answer; its spread; how each known
            LLM differs; counts of the text; the kernel's view; the encoder's state.
        numbers: The columns, float16, little-endian.
        words: Buckets of tokens and token pairs, uint16, little-endian, ascending, each as often as
            the request has it.
    """

    basis: int
    widths: tuple[int, ...]
    numbers: bytes
    words: bytes

    def pack(self) -> bytes:
        """Return the bytes of the view, about 450 and 2 for each word."""
        header = _HEADER.pack(_FORMAT, self.basis, *self.widths, len(self.words) // 2)
        return header + self.numbers + self.words

    @classmethod
    def unpack(cls, packed: bytes) -> RequestView:
        """Read what `pack` returned.

        Raises:
            ValueError: These are other bytes.
        """
        if len(packed) < _HEADER.size or len(packed) > MOST_BYTES:
            raise ValueError(f"{len(packed)} bytes are no view of a request")
        kind, basis, *widths, words = _HEADER.unpack_from(packed)
        middle = _HEADER.size + 2 * sum(widths)
        if kind != _FORMAT or len(packed) != middle + 2 * words:
            raise ValueError(f"{len(packed)} bytes of format {kind} are no view of a request")
        return cls(basis, tuple(widths), packed[_HEADER.size : middle], packed[middle:])

    def to_text(self) -> str:
        """Return the packed view in base64."""
        return base64.b64encode(self.pack()).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> RequestView:
        """Read what `to_text` returned.

        Raises:
            ValueError: It is another text.
        """
        try:
            return cls.unpack(base64.b64decode(text, validate=True))
        except binascii.Error as exc:
            raise ValueError("a view of a request is not base64") from exc
