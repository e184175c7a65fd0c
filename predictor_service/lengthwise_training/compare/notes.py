"""Notes of a comparison: what a reader must know before trusting its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lengthwise_predictor.model import ANY_LLM
from lengthwise_training.compare.served_model import ComparedPredictor, ServedModel
from lengthwise_training.data.rows import LengthTable
from lengthwise_training.scoring.bag_of_words import LEAST_TRAINING_ROWS, BagOfWords
from lengthwise_training.scoring.baselines import BAG_OF_WORDS


def unnamed_note(one: ServedModel, data: LengthTable) -> list[str]:
    """Note the LLMs that a model does not know."""
    names = [str(m) for m in np.unique(data.llms)]
    unnamed = [m for m in names if one.model.llm_row(m) == ANY_LLM]
    if not unnamed:
        return []
    return [
        f"{one.name} does not know {len(unnamed)} of the {len(names)} LLMs, and predicts for them "
        f"the mean of those that it knows: {_some(unnamed)}"
    ]


def untrained_note(words: ComparedPredictor, data: LengthTable) -> list[str]:
    """Note the LLMs that have too few training rows for a bag of words of their own."""
    names = [str(m) for m in np.unique(data.llms)]
    without = [m for m in names if isinstance(words, BagOfWords) and m not in words.own]
    if not without:
        return []
    return [
        f"{len(without)} of the {len(names)} LLMs have under {LEAST_TRAINING_ROWS} training rows: "
        f"their {BAG_OF_WORDS!r} is the one for all LLMs: {_some(without)}"
    ]


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
