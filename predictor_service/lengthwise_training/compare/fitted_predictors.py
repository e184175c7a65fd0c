"""The fitted predictors of a comparison.

They are fitted on training rows, cross-validated, or fitted with whole LLMs or sources held out.

Called by `comparison`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lengthwise_training.adapt.adapted_predictor import AdaptedPredictor
from lengthwise_training.adapt.view_extractor import NoKernelView, ViewExtractor
from lengthwise_training.compare.report import ADAPTED, ComparisonReport, held_out_cells
from lengthwise_training.compare.served_model import ComparedPredictor, ServedModel
from lengthwise_training.data.rows import LengthTable
from lengthwise_training.data.splits import fold_of
from lengthwise_training.scoring.bag_of_words import BagOfWords
from lengthwise_training.scoring.baselines import (
    BAG_OF_WORDS,
    BAG_OF_WORDS_TOGETHER,
    Constant,
    PromptLengthBaseline,
)
from lengthwise_training.scoring.scores import LEAST_ROWS, PredictedLengths

Array = NDArray[np.float64]

#: Makes the parts of a cross-validation independent of the folds of a training run.
_SALT = " (cross-validation)"

#: Folds in which LLMs or sources are held out: each costs a fit.
_HELD_OUT_FOLDS = 4


def view_extractors(
    served: Sequence[ServedModel], report: ComparisonReport
) -> dict[str, ViewExtractor]:
    """Open the kernel view of each model that has one; note those that have none."""
    extractors = {}
    for one in served:
        try:
            extractors[one.name] = ViewExtractor(one.directory, one.model)
        except NoKernelView as exc:
            report.notes.append(f"not adapted: {exc}")
    return extractors


@dataclass(frozen=True)
class _BagOfWordsForAll:
    """The bag of words' fit for all LLMs, as a predictor of its own."""

    words: BagOfWords

    def predict(self, table: LengthTable) -> PredictedLengths:
        return self.words.predict_together(table)


def one_number_predictors(train: LengthTable) -> dict[str, ComparedPredictor]:
    """Fit the baselines that learn one number."""
    return {"constant": Constant(train), "prompt length": PromptLengthBaseline(train)}


def fit_predictors(
    train: LengthTable, extractors: Mapping[str, ViewExtractor], rows: LengthTable
) -> dict[str, ComparedPredictor]:
    """Fit everything that learns on the same rows, `train`, to predict `rows`."""
    words = BagOfWords(train, llms=set(map(str, rows.llms)))
    out = one_number_predictors(train) | {BAG_OF_WORDS: words}
    if len(np.unique(train.llms)) > 1:
        out[BAG_OF_WORDS_TOGETHER] = _BagOfWordsForAll(words)
    for name, extractor in extractors.items():
        out[name + ADAPTED] = AdaptedPredictor(extractor, train)
    return out


def cross_validate(
    data: LengthTable, folds: int, extractors: Mapping[str, ViewExtractor]
) -> dict[str, PredictedLengths]:
    """Predict each part of the rows by fits on the other parts, brought to one level.

    A part with long answers leaves short ones to learn from. Without a correction, that alone gave
    the constant a tau-b of -0.14 on 300 rows, and took 0.014 from the bag of words. So the two
    baselines with one number are fitted on everything, and the others' parts are shifted to the
    level of all rows, LLM by LLM.
    """
    # Salted: a file that was split by the plain hash would have all its prompts in one part.
    part = np.array([fold_of(p + _SALT, folds) for p in data.prompts])[data.prompt_index]
    log_mean = data.log_mean()
    p50: dict[str, Array] = {}
    for fold in tqdm(range(folds), desc="cross-validate", disable=None):
        selected = part == fold
        if not selected.any() or selected.all():
            continue
        part_rows = data.where(selected)
        level = np.ones(len(data))
        for llm in np.unique(part_rows.llms):
            of_llm = data.llms == llm
            if (of_llm & ~selected).any():
                level[of_llm] = np.exp(
                    log_mean[of_llm].mean() - log_mean[of_llm & ~selected].mean()
                )
        for name, predictor in fit_predictors(data.where(~selected), extractors, part_rows).items():
            predicted = predictor.predict(part_rows)
            p50.setdefault(name, np.full(len(data), math.nan))[selected] = (
                predicted.p50 * level[selected]
            )
    found = {name: one.predict(data) for name, one in one_number_predictors(data).items()}
    return {name: PredictedLengths(values) for name, values in p50.items()} | found


def hold_out_groups(
    data: LengthTable,
    train: LengthTable,
    served: Sequence[ServedModel],
    extractors: Mapping[str, ViewExtractor],
) -> list[dict[str, Any]]:
    """Score fits that have not seen the row's LLM, or its source."""
    out = []
    for kind in ("llm", "source"):
        groups, train_groups = (
            (data.llms, train.llms) if kind == "llm" else (data.sources, train.sources)
        )
        names = np.unique(groups)
        p50: dict[str, Array] = {}
        for fold in tqdm(range(_HELD_OUT_FOLDS), desc=f"{kind} held out", disable=None):
            hidden = names[fold::_HELD_OUT_FOLDS]
            selected, known = np.isin(groups, hidden), ~np.isin(train_groups, hidden)
            if not selected.any() or known.sum() < LEAST_ROWS:
                continue
            part = data.where(selected)
            for name, predictor in fit_predictors(train.where(known), extractors, part).items():
                p50.setdefault(name, np.full(len(data), math.nan))[selected] = predictor.predict(
                    part
                ).p50
        predicted = {name: PredictedLengths(values) for name, values in p50.items()}
        if predicted and kind == "llm":
            predicted |= {m.name + ", LLM not named": m.predict(_unnamed(data)) for m in served}
        for name, one in predicted.items():
            out += held_out_cells(data, name, one, kind)
    return out


def _unnamed(table: LengthTable) -> LengthTable:
    unnamed = LengthTable(table.rows)
    unnamed.llms = np.array(["?"] * len(table), dtype=np.str_)
    return unnamed
