"""An LLM that the predictor does not know, answer by answer: what calibration makes of it.

`lengthwise bench calibration` calls `measure`. The prompts of a JSONL are asked in turn, under a
name that no model was trained on; after each answer the product's own calibration knows one answer
more. Beside it stands a bag of words that is fitted, at each step, on all answers so far.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lengthwise_contract.prompts import render_prompt
from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.loadtest.measures import tau_b
from lengthwise_queue.prediction.accuracy import coverage
from lengthwise_queue.prediction.calibration import shape_of
from lengthwise_queue.prediction.calibration_fit import fit
from lengthwise_store.prediction_record import MeasuredAnswer, Quantiles

#: Ends of the windows that are reported, answers.
STEPS = (100, 250, 500, 1000, 2000, 4000)

#: What the queue keeps: calibration knows no more.
_KEPT = 256

#: A name that no predictor was trained on.
_UNKNOWN_LLM = "an-llm-that-nobody-has-seen"


@dataclass(frozen=True, kw_only=True)
class MeasuredPrompt:
    """One prompt, and how long its answer was."""

    prompt: str
    tokens: int
    cap: int | None


@dataclass(frozen=True, kw_only=True)
class Window:
    """Answers `first` up to but not including `end`; MAE in tokens, of the median."""

    first: int
    end: int
    raw_mae: float
    calibrated_mae: float
    bag_of_words_mae: float | None  #: None: before there was anything to fit it on.
    raw_coverage: float | None
    calibrated_coverage: float | None
    tau_b: float | None  #: Of the prediction as it came.
    calibrated_tau_b: float | None
    bag_of_words_tau_b: float | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def read(path: Path, *, llm: str | None, limit: int, seed: int) -> list[MeasuredPrompt]:
    """Prompts and lengths of one LLM, in random order; of several samples of an answer the last.

    Raises:
        BadWorkload: The file has no such rows.
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
                text = row["prompt"] if "prompt" in row else render_prompt(row["messages"])
                real = int(tokens[-1] if isinstance(tokens, list) else tokens)
                found.append(MeasuredPrompt(prompt=text, tokens=max(real, 1), cap=row.get("cap")))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as exc:
        raise BadWorkload(f"{path}: {exc!r}; each line needs `prompt` and `output_tokens`") from exc
    if len(found) < STEPS[0]:
        whose = "" if llm is None else f" of {llm}"
        raise BadWorkload(f"{path} has {len(found)} usable rows{whose}, at least {STEPS[0]} needed")
    random.Random(seed).shuffle(found)  # noqa: S311 - an order, no secret
    return found[:limit]


def measure(
    asked: Sequence[MeasuredPrompt],
    predict: Callable[[str, str], Quantiles],
    bag_of_words: Callable[[Sequence[MeasuredPrompt], Sequence[MeasuredPrompt]], list[float]],
) -> list[Window]:
    """Go through a stream.

    Args:
        asked: In the order of asking.
        predict: Prompt and name of the LLM -> p10, p50 and p90, tokens.
        bag_of_words: Fitted on the first, the lengths of the second, tokens.
    """
    answers: list[MeasuredAnswer] = []
    calibrated: list[Quantiles] = []
    for one in asked:
        raw = predict(one.prompt, _UNKNOWN_LLM)
        if len(answers) % 8 == 0:  # as often as the queue service does
            fitted = fit(answers[-_KEPT:])
        shape = shape_of(one.prompt)
        said = fitted.quantiles(raw, shape)
        calibrated.append(said)
        answers.append(
            MeasuredAnswer(
                tokens=one.tokens,
                priced=said[1],
                raw=raw,
                calibrated=said,
                predictor="v",
                max_tokens=one.cap,
                shape=shape,
            )
        )
    ends = [*(step for step in STEPS if step < len(asked)), len(asked)]
    windows = []
    for first, end in zip([0, *ends], ends, strict=False):
        rival = bag_of_words(asked[:first], asked[first:end]) if first else None
        windows.append(_window(answers[first:end], first, rival))
    return windows


def _window(answers: Sequence[MeasuredAnswer], first: int, rival: list[float] | None) -> Window:
    real = [float(a.tokens) for a in answers]
    raw = [a.raw[1] for a in answers if a.raw is not None]
    said = [a.calibrated[1] for a in answers if a.calibrated is not None]
    return Window(
        first=first,
        end=first + len(answers),
        raw_mae=_mae(raw, real),
        calibrated_mae=_mae(said, real),
        bag_of_words_mae=None if rival is None else _mae(rival, real),
        raw_coverage=coverage((a.raw, a) for a in answers if a.raw is not None),
        calibrated_coverage=coverage(
            (a.calibrated, a) for a in answers if a.calibrated is not None
        ),
        tau_b=tau_b(raw, real),
        calibrated_tau_b=tau_b(said, real),
        bag_of_words_tau_b=None if rival is None else tau_b(rival, real),
    )


def _mae(predicted: Sequence[float], real: Sequence[float]) -> float:
    return sum(abs(p - r) for p, r in zip(predicted, real, strict=True)) / len(real)
