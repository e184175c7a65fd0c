"""A predictor's view of a request as arrays, by which two requests are compared.

`lengthwise_contract.request_view` has the bytes. Every other module here reads views.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_contract.request_view import BUCKETS, PARTS, RequestView


@dataclass(frozen=True, eq=False)
class View:
    """What a predictor saw in one request.

    Attributes:
        basis: A number of the predictor's version; views of two predictors cannot be compared.
        widths: Columns of each of `PARTS`.
        vector: float32, (sum of widths,), the parts in their order; exact in float16.
        words: uint16, (words,), ascending: buckets of tokens and of token pairs, each as often as
            the request has it.
    """

    basis: int
    widths: tuple[int, ...]
    vector: NDArray[np.float32]
    words: NDArray[np.uint16]

    def part(self, name: str) -> NDArray[np.float32]:
        """Return a part of the vector by its name in `PARTS`."""
        at = PARTS.index(name)
        start = sum(self.widths[:at])
        return self.vector[start : start + self.widths[at]]

    def pack(self) -> bytes:
        """Return the view as bytes: about 450 and 2 for each word."""
        numbers, words = self.vector.astype("<f2").tobytes(), self.words.astype("<u2").tobytes()
        return RequestView(self.basis, self.widths, numbers, words).pack()

    @classmethod
    def unpack(cls, packed: bytes) -> View:
        """Read what `pack` returned.

        Raises:
            ValueError: These are other bytes.
        """
        return cls._of(RequestView.unpack(packed))

    @classmethod
    def from_text(cls, text: str) -> View:
        """Read a `Prediction.view`, base64.

        Raises:
            ValueError: It is another text.
        """
        return cls._of(RequestView.from_text(text))

    @classmethod
    def _of(cls, raw: RequestView) -> View:
        vector = np.frombuffer(raw.numbers, "<f2").astype(np.float32)
        if not np.isfinite(vector).all():
            raise ValueError("a view of a request holds a number that is not finite")
        words = np.frombuffer(raw.words, "<u2").astype(np.uint16)
        return cls(raw.basis, raw.widths, vector, words)

    def keyed(self, key: bytes) -> View:
        """Return the view with its words permuted by a secret, so that they cannot be read.

        The learner compares words and never reads them: it learns the same from keyed views, if all
        views of a queue have one key.
        """
        words = np.sort(_permutation(key)[self.words])
        return View(self.basis, self.widths, self.vector, words)


@functools.lru_cache(maxsize=16)
def _permutation(key: bytes) -> NDArray[np.uint16]:
    """Return a permutation of all buckets; the same in every process and version."""
    drawn = hashlib.shake_256(b"lengthwise words\0" + key).digest(8 * BUCKETS)
    return np.argsort(np.frombuffer(drawn, "<u8"), kind="stable").astype(np.uint16)
