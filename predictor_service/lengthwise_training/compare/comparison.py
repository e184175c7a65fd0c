"""Compares predictors on the same rows: the table that `lengthwise evaluate` prints.

It compares models that serving could load, run with serving's own code; the baselines, fitted on
the training rows; each model adapted to these rows; and the ceiling, which is another sample of the
same answer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lengthwise_training.backbones.devices import Device
from lengthwise_training.compare.fitted_predictors import (
    cross_validate,
    fit_predictors,
    hold_out_groups,
    one_number_predictors,
    view_extractors,
)
from lengthwise_training.compare.model_names import names_of
from lengthwise_training.compare.notes import unnamed_note, untrained_note
from lengthwise_training.compare.report import ComparisonReport, Speed, cells, summarise
from lengthwise_training.compare.served_model import ComparedPredictor, ServedModel
from lengthwise_training.data.rows import LengthTable
from lengthwise_training.scoring.baselines import BAG_OF_WORDS, CEILING, ceiling
from lengthwise_training.scoring.scores import PredictedLengths

Array = NDArray[np.float64]

#: Most single predictions that are timed.
_TIMED = 200


def compare(
    data: LengthTable,
    train: LengthTable | None,
    models: Sequence[Path],
    *,
    folds: int = 0,
    adapt: bool = True,
    held_out: bool = False,
    others: Mapping[str, ComparedPredictor] | None = None,
    device: Device = "cpu",
) -> ComparisonReport:
    """Predict the same rows with every predictor, and score them.

    Args:
        data: The rows to predict.
        train: Rows of other prompts, for the fitted predictors; see `without_prompts_of`.
        models: Folders of models.
        folds: Without `train`: fit on the data itself in so many parts, each row by a fit that has
            not seen its prompt; 0 fits no bag of words.
        adapt: Whether the models are also adapted to the training rows.
        held_out: Whether LLMs and sources are held out as well, which takes minutes.
        others: More predictors, by name.
        device: Where the models run.

    Raises:
        ModelUnusable: A model cannot be loaded, or not onto that device.
    """
    served = [ServedModel(directory, device) for directory in dict.fromkeys(models)]
    cards = [(one.directory, one.model.card) for one in served]
    for one, unique in zip(served, names_of(cards), strict=True):
        one.name = unique
    predicted: dict[str, PredictedLengths] = {}
    speed: dict[str, Speed] = {}
    report = ComparisonReport()
    for name, predictor in ({m.name: m for m in served} | dict(others or {})).items():
        predicted[name], speed[name] = _timed(predictor, data, alone=name not in (others or {}))
    for one in served:
        learned = {str(d.get("source")) for d in one.model.card.get("training_data", [])}
        shared = sorted(learned & set(map(str, np.unique(data.sources))))
        if shared:
            report.notes.append(
                f"{one.name} was trained on prompts of {', '.join(shared)}: if these are among "
                "them, its rows flatter it"
            )
        report.notes += unnamed_note(one, data)
    extractors = view_extractors(served, report) if adapt else {}
    if train is not None:
        fitted = fit_predictors(train, extractors, data)
        report.notes += untrained_note(fitted[BAG_OF_WORDS], data)
        for name, predictor in fitted.items():
            predicted[name], speed[name] = _timed(predictor, data)
    elif folds > 1:
        predicted |= cross_validate(data, folds, extractors)
        report.notes.append(
            f"no --train: the fitted predictors learn from the data itself, in {folds} parts by "
            "prompt"
        )
    else:
        predicted |= {name: one.predict(data) for name, one in one_number_predictors(data).items()}
        report.notes.append(
            "no --train: the constant is the data's own median, and there is no bag of words"
        )
    predicted[CEILING] = ceiling(data)
    for name, answers in predicted.items():
        report.rows += cells(data, name, answers, speed.get(name, Speed()))
    if held_out and train is not None:
        report.held_out = hold_out_groups(data, train, served, extractors)
    report.summary = summarise(report.rows, [m.name for m in served], data, predicted)
    return report


def _timed(
    predictor: ComparedPredictor, table: LengthTable, *, alone: bool = True
) -> tuple[PredictedLengths, Speed]:
    """Predict all rows and time that; `alone`: also time single rows."""
    began = time.perf_counter()
    predicted = predictor.predict(table)
    per_s = len(table) / max(time.perf_counter() - began, 1e-9)
    if not alone:
        return predicted, Speed(throughput_per_s=per_s)
    some = np.random.default_rng(0).permutation(len(table))[:_TIMED]
    times = []
    for row in some:
        one = LengthTable([table.rows[row]])
        began = time.perf_counter()
        predictor.predict(one)
        times.append((time.perf_counter() - began) * 1000.0)
    return predicted, Speed(
        statistics.median(times), float(np.quantile(times, 0.99)), throughput_per_s=per_s
    )
