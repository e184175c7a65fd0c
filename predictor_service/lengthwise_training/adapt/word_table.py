"""A ridge regression on hashed tokens and token pairs, small enough for a model's graph.

Called by `adapted_predictor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import Ridge

from lengthwise_predictor.view import PAIR_BUCKETS, word_buckets

Array = NDArray[np.float64]

#: Of the ridge. On Alpaca and ShareGPT of CASTILLO, 1 and 4 differed by 0.001 of tau-b.
_ALPHA = 2.0

#: Makes the features of a text about as long as 1, so that `_ALPHA` fits.
_SCALE = 1.0 / 3.0


@dataclass(frozen=True)
class WordsFit:
    """The part of each token and pair in a text's length.

    Attributes:
        table: float32, (vocabulary + PAIR_BUCKETS,), in log tokens.
        vocabulary: Token ids are below this.
        offset: Added to every text.
    """

    table: NDArray[np.float32]
    vocabulary: int
    offset: float

    def deviation(self, ids: Sequence[Sequence[int]]) -> Array:
        """Compute each text's distance to its LLM's level, log(1 + tokens), float64, (texts,).

        The sum over a text's tokens and pairs, divided by the root of one more than their number.
        """
        out = []
        for row_ids in ids:
            at = word_buckets(row_ids, self.vocabulary)
            out.append(float(self.table[at].sum(dtype=np.float64)) / np.sqrt(len(at) + 1.0))
        return np.array(out) + self.offset


def fit_words(
    ids: Sequence[Sequence[int]],
    text_of_row: NDArray[np.int64],
    deviation: Array,
    *,
    vocabulary: int,
) -> WordsFit:
    """Fit the table.

    Args:
        ids: Token ids of each text.
        text_of_row: int64, (rows,), which text a row is about.
        deviation: float64, (rows,), distance of its length to its LLM's level, log(1 + tokens).
        vocabulary: Token ids are below this.
    """
    found = [word_buckets(row_ids, vocabulary) for row_ids in ids]
    lengths = np.array([len(f) for f in found])
    counts = sparse.csr_matrix(
        (
            np.ones(lengths.sum()),
            (np.repeat(np.arange(len(found)), lengths), np.concatenate(found)),
        ),
        shape=(len(found), vocabulary + PAIR_BUCKETS),
    )
    counts.sum_duplicates()
    texts = np.asarray((counts > 0).sum(axis=0)).ravel()
    idf = np.where(texts >= 2, np.log((1 + len(found)) / (1 + texts)), 0.0)
    scaled = sparse.diags(_SCALE / np.sqrt(lengths + 1.0)) @ counts @ sparse.diags(idf)
    ridge = Ridge(alpha=_ALPHA, solver="sparse_cg").fit(scaled.tocsr()[text_of_row], deviation)
    table = _SCALE * idf * ridge.coef_
    return WordsFit(table.astype(np.float32), vocabulary, float(ridge.intercept_))
