"""Measure calibration on an LLM that the predictor was not trained on, answer by answer.

`lengthwise bench calibration` calls `measure`. The prompts of a JSONL are predicted one after the
other, under a name that no model was trained on. The product's calibration gets each answer. The
baseline is a bag of words that is fitted, at each step, on all earlier answers.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lengthwise_contract.defaults import ANSWERS_KEPT
from lengthwise_contract.prompts import render_request
from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.loadtest.measures import tau_b
from lengthwise_queue.prediction.accuracy import coverage
from lengthwise_queue.prediction.calibration import shape_of
from lengthwise_queue.prediction.calibration_fit import fit
from lengthwise_store.prediction_record import MeasuredAnswer, Quantiles

#: Ends of the windows that are reported, answers.
STEPS = (100, 250, 500, 1000, 2000, 4000)

#: A name that no predictor was trained on.
_UNKNOWN_LLM = "an-unknown-llm"


@dataclass(frozen=True, kw_only=True)
class MeasuredPrompt:
    """One prompt and the length of its answer."""

    prompt: str
    tokens: int
    cap: int | None


@dataclass(frozen=True, kw_only=True)
class Window:
    """The answers from `first` to `end`, exclusive. MAE of the median, tokens."""

    first: int
    end: int
    raw_mae: float
    calibrated_mae: float
    bag_of_words_mae: float | None  #: None: there are no earlier answers to fit it on.
    raw_coverage: float | None
    calibrated_coverage: float | None
    tau_b: float | None  #: Of the uncalibrated prediction.
    calibrated_tau_b: float | None
    bag_of_words_tau_b: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the window for `--json`."""
        return asdict(self)


def read(path: Path, *, llm: str | None, limit: int, seed: int) -> list[MeasuredPrompt]:
    """Read prompts and lengths of one LLM, in random order. Of several samples, use the last.

    Raises:
        BadWorkload: The file has too few valid rows.
    """
    open_text: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    found: list[MeasuredPrompt] = []
    try:
        with open_text(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if (llm is not None and row.get("model") != llm) or row.get("degenerate"):
                    continue
                tokens = row["output_tokens"]
                text = row["prompt"] if "prompt" in row else render_request(row["messages"])
                real = int(tokens[-1] if isinstance(tokens, list) else tokens)
                found.append(MeasuredPrompt(prompt=text, tokens=max(real, 1), cap=row.get("cap")))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as exc:
        raise BadWorkload(f"{path}: {exc!r}; each line needs `prompt` and `output_tokens`") from exc
    if len(found) < STEPS[0]:
        of_llm = "" if llm is None else f" of {llm}"
        raise BadWorkload(
            f"{path} has {len(found)} usable rows{of_llm}, at least {STEPS[0]} needed"
        )
    random.Random(seed).shuffle(found)  # noqa: S311 - not a secret
    return found[:limit]


def measure(
    prompts: Sequence[MeasuredPrompt],
    predict: Callable[[str, str], Quantiles],
    bag_of_words: Callable[[Sequence[MeasuredPrompt], Sequence[MeasuredPrompt]], list[float]],
) -> list[Window]:
    """Predict and calibrate a stream of prompts.

    Args:
        prompts: The prompts, in order.
        predict: Prompt and name of the LLM -> p10, p50 and p90, tokens.
        bag_of_words: Fits on the first argument and returns lengths of the second, tokens.
    """
    answers: list[MeasuredAnswer] = []
    calibrated: list[Quantiles] = []
    for one in prompts:
        raw = predict(one.prompt, _UNKNOWN_LLM)
        if len(answers) % 8 == 0:  # as often as in the queue service
            fitted = fit(answers[-ANSWERS_KEPT:])
        shape = shape_of(one.prompt)
        quantiles = fitted.quantiles(raw, shape)
        calibrated.append(quantiles)
        answers.append(
            MeasuredAnswer(
                tokens=one.tokens,
                priced=quantiles[1],
                raw=raw,
                calibrated=quantiles,
                predictor="v",
                max_tokens=one.cap,
                shape=shape,
            )
        )
    ends = [*(step for step in STEPS if step < len(prompts)), len(prompts)]
    windows = []
    for first, end in zip([0, *ends], ends, strict=False):
        baseline = bag_of_words(prompts[:first], prompts[first:end]) if first else None
        windows.append(_window(answers[first:end], first, baseline))
    return windows


def _window(answers: Sequence[MeasuredAnswer], first: int, baseline: list[float] | None) -> Window:
    real = [float(a.tokens) for a in answers]
    raw = [a.raw[1] for a in answers if a.raw is not None]
    medians = [a.calibrated[1] for a in answers if a.calibrated is not None]
    return Window(
        first=first,
        end=first + len(answers),
        raw_mae=_mae(raw, real),
        calibrated_mae=_mae(medians, real),
        bag_of_words_mae=None if baseline is None else _mae(baseline, real),
        raw_coverage=coverage((a.raw, a) for a in answers if a.raw is not None),
        calibrated_coverage=coverage(
            (a.calibrated, a) for a in answers if a.calibrated is not None
        ),
        tau_b=tau_b(raw, real),
        calibrated_tau_b=tau_b(medians, real),
        bag_of_words_tau_b=None if baseline is None else tau_b(baseline, real),
    )


def _mae(predicted: Sequence[float], real: Sequence[float]) -> float:
    return sum(abs(p - r) for p, r in zip(predicted, real, strict=True)) / len(real)
