"""Writes a model that is adapted to the user's own lengths, as a folder that serving loads.

It takes seconds for a thousand prompts, without a GPU and without PyTorch. Called by `lengthwise
adapt`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise_predictor.model import LengthModel
from lengthwise_training.adapt.adapted_predictor import AdaptedPredictor
from lengthwise_training.adapt.graph import write_graph
from lengthwise_training.adapt.view_extractor import ViewExtractor
from lengthwise_training.adapt.word_table import fit_words
from lengthwise_training.data.rows import LengthTable
from lengthwise_training.data.splits import fold_of
from lengthwise_training.scoring.scores import PredictedLengths, score

Array = NDArray[np.float64]

#: Parts in which the words are left out.
_FOLDS = 5

#: An LLM needs this many rows for a spread of its own.
_LEAST_ROWS = 50

#: Largest allowed difference between the fit and the written file, log tokens.
_PARITY = 0.02


def write_adapted_model(train: LengthTable, model: Path, out: Path) -> dict[str, Any]:
    """Fit a model to `train` and write it; return its card.

    Args:
        train: At least a few hundred rows of the LLMs that will be served.
        model: Folder of the model to start from.
        out: Folder to write.

    Raises:
        NoKernelView: That model has no kernel view of prompts that could be fitted.
        ModelUnusable: That model cannot be loaded.
        RuntimeError: The written file does not compute the fit.
    """
    extractor = ViewExtractor(model, LengthModel(model, provider="cpu"))
    fit = AdaptedPredictor(extractor, train)
    spread, left_out = _spread(fit, train)
    out.mkdir(parents=True, exist_ok=True)
    write_graph(fit, spread, model / "model.onnx", out / "model.onnx")
    shutil.copyfile(model / "tokenizer.json", out / "tokenizer.json")
    old = extractor.model.card
    card: dict[str, Any] = {
        k: old[k] for k in ("max_tokens", "feature_names", "backbone", "precision") if k in old
    }
    rows = {str(m): int((train.llms == m).sum()) for m in np.unique(train.llms)}
    card |= {
        "version": f"{extractor.model.version}+adapted",
        "llms": ["*", *fit.kernel.llms],
        "sources": None,
        "training_data": [
            *old.get("training_data", []),
            {"source": "your own", "rows": len(train), "licence": "your own"},
        ],
        "adapted_to": {"rows": rows, "prompts": len(train.prompts)},
        # Of predictions for prompts that were left out of the fit.
        "metrics": {} if left_out is None else {"tau_b": left_out},
        "held_out_validation": False,
    }
    (out / "model.json").write_text(
        json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    _check(fit, spread, train, out)
    return card


def _spread(fit: AdaptedPredictor, train: LengthTable) -> tuple[Array, float | None]:
    """Return offsets to a row's log(1 + tokens) for p10, p50, p90 and the mean: (1 + llms, 4).

    They come from the samples' distance to the prediction of a fit without the row's prompt: of the
    kernel in closed form, of the words in five parts by prompt. Also returns the tau-b of these
    predictions.
    """
    kernel = fit.kernel
    table = train.where(np.isin(np.arange(len(train)), kernel.rows))
    column = np.array([kernel.column(str(m)) for m in table.llms])
    ids = fit.extractor.ids(table.prompts)
    target = table.log_mean() - kernel.base[column]
    part = np.array([fold_of(p, _FOLDS) for p in table.prompts])
    by_text = np.zeros(len(ids))
    for fold in range(_FOLDS):
        known = part[table.prompt_index] != fold
        if known.any() and not known.all():
            others = fit_words(
                ids, table.prompt_index[known], target[known], vocabulary=fit.words.vocabulary
            )
            left_out = np.flatnonzero(part == fold)
            by_text[left_out] = others.deviation([ids[i] for i in left_out])
    words = by_text[table.prompt_index]
    own = 0.5 * (kernel.left_out[:, 0] + kernel.base[column] + words)
    other = 0.5 * (kernel.left_out[:, 1] + kernel.base[0] + words)
    deviations = [np.log1p(s) - o for s, o in zip(table.samples, own, strict=True)]
    other_deviations = [np.log1p(s) - o for s, o in zip(table.samples, other, strict=True)]
    everyone = _offsets(np.concatenate(other_deviations))
    spread = [everyone]
    for number in range(1, 1 + len(kernel.llms)):
        own_rows = [d for d, c in zip(deviations, column, strict=True) if c == number]
        spread.append(
            _offsets(np.concatenate(own_rows if len(own_rows) >= _LEAST_ROWS else deviations))
        )
    scores = score(table, PredictedLengths(np.expm1(own)))
    return np.array(spread), None if scores is None else scores.tau_b


def _offsets(deviations: Array) -> list[float]:
    low, middle, high = np.quantile(deviations, [0.1, 0.5, 0.9])
    return [float(low), float(middle), float(high), float(np.log(np.exp(deviations).mean()))]


def _check(fit: AdaptedPredictor, spread: Array, train: LengthTable, out: Path) -> None:
    model = LengthModel(out, provider="cpu")
    prompts = train.prompts[:50]
    want = fit.log_tokens(*fit.extractor.views_and_ids(prompts))
    worst = 0.0
    for prompt, row in zip(prompts, want, strict=True):
        names = ["*", *fit.kernel.llms]
        got = model.run(model.encode_for(prompt, names))[:, 1]
        fitted = np.log(np.maximum(np.expm1(row + spread[:, 1]), 1.0))
        columns = [model.llm_row(name) for name in names]  # two spellings may name one LLM
        worst = max(worst, float(np.abs(got - fitted[columns]).max()))
    if worst > _PARITY:
        raise RuntimeError(
            f"the written model differs from the fit by {worst:.3f} log tokens; "
            "this is a fault of the export, not of your data: please report it"
        )
