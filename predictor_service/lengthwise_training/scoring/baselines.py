"""The baselines and the ceiling that every trained predictor is compared with.

All but the ceiling are fitted on rows that they are given, and predict others. The bag of words has
a module of its own. Called by `compare` and by `runs.all_tasks`.
"""

from __future__ import annotations

import math

import numpy as np

from lengthwise_training.data.rows import LengthTable
from lengthwise_training.scoring.scores import PredictedLengths

CEILING = "ceiling: mean of the other samples"
BAG_OF_WORDS = "bag of words"
BAG_OF_WORDS_TOGETHER = "bag of words, one for all LLMs"


class Constant:
    """The median length for every prompt, with the quantiles of all lengths around it."""

    def __init__(self, train: LengthTable) -> None:
        """Fit on the lengths of `train`."""
        every = np.concatenate(train.samples)
        self._low, self._median, self._high = np.quantile(every, [0.1, 0.5, 0.9])

    def predict(self, table: LengthTable) -> PredictedLengths:
        """Return the same lengths for each row."""
        one = np.ones(len(table))
        return PredictedLengths(one * self._median, one * self._low, one * self._high)


class PromptLengthBaseline:
    """The prompt's length in characters, scaled to lengths: the cheapest ranking."""

    def __init__(self, train: LengthTable) -> None:
        """Fit the scale on `train`."""
        chars = np.array([len(p) for p in train.prompts], dtype=np.float64)[train.prompt_index]
        median = float(np.median(np.concatenate(train.samples)))
        self._tokens_per_char = median / max(float(np.median(chars)), 1.0)

    def predict(self, table: LengthTable) -> PredictedLengths:
        """Return lengths proportional to the prompt's."""
        chars = np.array([len(p) for p in table.prompts], dtype=np.float64)[table.prompt_index]
        return PredictedLengths(chars * self._tokens_per_char)


def ceiling(table: LengthTable) -> PredictedLengths:
    """Return the mean of the samples other than the scored one: no prompt predicts better."""
    column = table.one_sample()
    others = [
        (s.sum() - s[c]) / (len(s) - 1) if len(s) > 1 else math.nan
        for s, c in zip(table.samples, column, strict=True)
    ]
    return PredictedLengths(np.array(others))
