"""A model's view of a request, from which the queue service learns: numbers and hashed words.

The numbers are more outputs of the model's graph (`lengthwise_training.bundled.view_outputs` writes
them). The words are made here. Training hashes words with the same function.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_contract.request_view import BUCKETS, PARTS, RequestView
from lengthwise_predictor.errors import ModelUnusable

#: Buckets that token pairs share; those of single tokens come before them.
PAIR_BUCKETS = 32_768

#: The multipliers of a pair's hash.
LEFT, RIGHT = 31_337, 7

#: Bounds of a number of a view: those of float16.
_MOST = 65_504.0


def word_buckets(ids: Sequence[int], vocabulary: int) -> NDArray[np.int64]:
    """Return the buckets of a text: of its tokens, then of its pairs of neighbours.

    Args:
        ids: Token ids.
        vocabulary: They are below this.

    Returns:
        int64, (2 * len(ids) - 1,), each below `vocabulary + PAIR_BUCKETS`.
    """
    one = np.asarray(ids, dtype=np.int64)
    pairs = vocabulary + (one[:-1] * LEFT + one[1:] * RIGHT) % PAIR_BUCKETS
    return np.concatenate([one, pairs])


@dataclass(frozen=True)
class ViewMaker:
    """Makes the views of one model.

    Attributes:
        basis: A number of the model's version.
        widths: Columns of each part of the numbers.
        vocabulary: Token ids are below this.
    """

    basis: int
    widths: tuple[int, ...]
    vocabulary: int

    @classmethod
    def of(cls, version: str, widths: Sequence[int], vocabulary: int) -> ViewMaker:
        """Check the columns of a model's views, `view` in model.json.

        Raises:
            ModelUnusable: They are not those of a view.
        """
        if len(widths) != len(PARTS) or vocabulary + PAIR_BUCKETS > BUCKETS:
            raise ModelUnusable(
                f"the model's view has {len(widths)} parts and {vocabulary} tokens, of which "
                f"{len(PARTS)} and {BUCKETS - PAIR_BUCKETS} can be used; export the model again"
            )
        return cls(zlib.crc32(version.encode()), tuple(widths), vocabulary)

    def text(self, numbers: NDArray[np.float32], ids: Sequence[int]) -> str:
        """Return the view of one request in base64, as `Prediction.view` carries it.

        Args:
            numbers: float32, (sum of widths,), from the graph.
            ids: The token ids that the model read.
        """
        words = np.sort(word_buckets(ids, self.vocabulary)).astype("<u2")
        packed = np.clip(numbers, -_MOST, _MOST).astype("<f2")
        return RequestView(self.basis, self.widths, packed.tobytes(), words.tobytes()).to_text()
