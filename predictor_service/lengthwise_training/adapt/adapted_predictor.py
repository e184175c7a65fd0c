"""The bundled model's kernel view, fitted to the user's own lengths in closed form.

A model that was trained on other LLMs and other prompts knows which prompts are alike; a few
hundred measured answers say what that means for a new LLM. Called by `compare`, as the row
`bundled+adapted`, and by `adapted_model`, which writes it as a model that serving can load.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lengthwise_training.adapt.kernel_fit import fit_kernel
from lengthwise_training.adapt.view_extractor import ViewExtractor
from lengthwise_training.adapt.word_table import fit_words
from lengthwise_training.data.rows import LengthTable
from lengthwise_training.scoring.scores import PredictedLengths

Array = NDArray[np.float64]


class AdaptedPredictor:
    """A kernel on the model's view and a ridge on its words, averaged; `adapted_model` writes it.

    The mean is 0.02 to 0.05 of tau-b better than either (docs/research/experiments.md).
    """

    def __init__(self, extractor: ViewExtractor, train: LengthTable, *, seed: int = 0) -> None:
        """Fit on `train`."""
        self.extractor = extractor
        self.kernel = fit_kernel(extractor, train, seed=seed)
        level = {m: self.kernel.base[self.kernel.column(m)] for m in self.kernel.llms}
        at = np.array([level.get(str(m), np.nan) for m in train.llms])
        known = np.isfinite(at)  # the kernel may have kept no prompt of an LLM
        self.words = fit_words(
            extractor.ids(train.prompts),
            train.prompt_index[known],
            (train.log_mean() - at)[known],
            vocabulary=extractor.vocabulary,
        )

    def log_tokens(self, views: Array, ids: Sequence[Sequence[int]]) -> Array:
        """Predict log(1 + tokens), float64, (prompts, 1 + llms)."""
        by_words = self.kernel.base + self.words.deviation(ids)[:, None]
        return 0.5 * (self.kernel.log_tokens(views) + by_words)

    def predict(self, table: LengthTable) -> PredictedLengths:
        """Predict each row by its LLM's own lengths and all LLMs'; an unknown LLM by all LLMs'."""
        by_llm = self.log_tokens(*self.extractor.views_and_ids(table.prompts))
        columns = {str(m): self.kernel.column(str(m)) for m in np.unique(table.llms)}
        log_tokens = by_llm[table.prompt_index, [columns[str(m)] for m in table.llms]]
        return PredictedLengths(np.maximum(np.expm1(log_tokens), 1.0))
