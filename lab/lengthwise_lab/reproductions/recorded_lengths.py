"""The recorded lengths of the four research systems' experiments, or stand-ins like them.

Called by the sources of rows. With the folder of recorded data (`--data`) the published numbers are
reproduced to the last digit where its files are complete; without it approximately, because the
stand-ins have the same moments.
"""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.errors import BadWorkload

Ints = NDArray[np.int64]

_LMSYS = "lengthsonly_lmsys1m_ssjf.csv.gz"
_AZURE = "traces_azure2023_conv.csv.gz"
_ALPACA = "lengths_alpaca_vicuna7b.jsonl.gz"

#: The fraction of a millisecond at which the Azure trace begins. SSJF cuts its times to whole
#: milliseconds of the clock; our copy of the trace begins at 0.
_AZURE_BEGINS_MS = 0.59

_SEED = 20251121


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Answers of one LLM, and the classes that two predictors chose for them.

    `tokens`, `three`, `five`: int64, (rows,); a higher class is longer. `recorded`: False for
    stand-ins.
    """

    tokens: Ints
    three: Ints
    five: Ints
    recorded: bool


def classified(data: Path | None) -> Classified:
    """Return SSJF's test set: answers of Vicuna-13B on LMSYS-Chat-1M, classified by its BERTs."""
    if data is None or not (data / _LMSYS).is_file():
        return _like_lmsys()
    columns = _columns(data / _LMSYS, ("output_tokens", "pred_class2", "pred_class5"))
    tokens, three, five = (np.array(column, dtype=np.int64) for column in columns)
    return Classified(tokens=tokens, three=three, five=five, recorded=True)


def azure_ms(data: Path | None) -> list[int]:
    """Return the arrivals of the Azure 2023 conversation trace, whole ms."""
    if data is None or not (data / _AZURE).is_file():
        # 19,366 gaps with a mean of 180.8 ms and a coefficient of variation of 1.09.
        shape = 1.09**-2
        gaps = np.random.default_rng(_SEED).gamma(shape, 180.8 / shape, 19_366)
        return [int(at) for at in np.cumsum(gaps).tolist()]
    (arrivals,) = _columns(data / _AZURE, ("arrival_s",))
    return [int(float(arrival) * 1000 + _AZURE_BEGINS_MS) for arrival in arrivals]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Prompts, each answered several times by one LLM.

    `prompt_tokens`: int64, (rows,). `samples`: int64, (rows, samples), output tokens, at most
    `cap`. `greedy`: int64, (rows,), of the greedy answer. `recorded`: False for stand-ins.
    """

    prompt_tokens: Ints
    samples: Ints
    greedy: Ints
    cap: int
    recorded: bool


def sampled(data: Path | None, *, split: str | None = "val") -> Sampled:
    """Return sequence scheduling's lengths: Alpaca prompts, Vicuna-7B at four temperatures.

    Args:
        data: The folder of recorded data; None: stand-ins.
        split: `val` or `train`, the halves of the data set; None: both.
    """
    if data is None or not (data / _ALPACA).is_file():
        return _like_alpaca(8_000 if split else 16_000)
    lengths, prompts = [], []
    with gzip.open(data / _ALPACA, "rt") as lines:
        for line in lines:
            row = json.loads(line)
            if split is None or row["split"] == split:
                lengths.append(row["output_tokens"])
                prompts.append(row["prompt_tokens"])
    samples = np.array(lengths, dtype=np.int64)
    return Sampled(
        prompt_tokens=np.array(prompts, dtype=np.int64),
        samples=samples,
        greedy=samples[:, 0],
        cap=512,
        recorded=True,
    )


def _columns(path: Path, names: tuple[str, ...]) -> list[list[str]]:
    with gzip.open(path, "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not set(names) <= rows[0].keys():
        raise BadWorkload(f"{path} lacks the columns {', '.join(names)}")
    return [[row[name] for row in rows] for name in names]


#: Quantiles of the LMSYS answers, tokens; linear between them.
_LMSYS_QUANTILES = {
    0.0: 2, 0.1: 13, 0.25: 41, 0.5: 140, 0.75: 294, 0.9: 397, 0.95: 447, 0.99: 502, 1.0: 511,
}  # fmt: skip

#: How many of the 85,482 answers each classifier put in each class, and the noise on a normal score
#: of the true length that gives its published tau-b (0.567 and 0.635), found by trial.
_THREE, _THREE_NOISE = (42_645, 40_732, 2_105), 0.70
_FIVE, _FIVE_NOISE = (21_495, 21_336, 19_822, 20_410, 2_419), 0.70


def _like_lmsys() -> Classified:
    rng = np.random.default_rng(_SEED)
    rows = sum(_FIVE)
    ranks = rng.permutation((np.arange(rows) + 0.5) / rows)
    tokens = np.interp(ranks, list(_LMSYS_QUANTILES), list(_LMSYS_QUANTILES.values()))
    return Classified(
        tokens=np.rint(tokens).astype(np.int64),
        three=_classes(ranks, _THREE, _THREE_NOISE, rng),
        five=_classes(ranks, _FIVE, _FIVE_NOISE, rng),
        recorded=False,
    )


def _classes(
    ranks: NDArray[np.float64], counts: tuple[int, ...], noise: float, rng: np.random.Generator
) -> Ints:
    """Cut the ranks, with noise, into classes of the given sizes."""
    # A logistic score instead of a normal one: numpy has no quantile function of the normal.
    score = np.log(ranks / (1 - ranks)) / 1.702 + noise * rng.standard_normal(len(ranks))
    classes = np.empty(len(ranks), dtype=np.int64)
    classes[np.argsort(score, kind="stable")] = np.repeat(np.arange(len(counts)), counts)
    return classes


def _like_alpaca(rows: int) -> Sampled:
    """Draw prompts with the measured medians and spread, capped at 512 tokens.

    The measured 37/105/176 tokens at p25/p50/p75 are not quite log-normal, so a third of the
    prompts are drawn short. Within a prompt the median coefficient of variation is 0.28.
    """
    rng = np.random.default_rng(_SEED)
    short = rng.random(rows) < 0.36
    typical = np.where(
        short, rng.lognormal(np.log(24), 0.8, rows), rng.lognormal(np.log(148), 0.48, rows)
    )
    spread = rng.lognormal(np.log(0.28), 0.5, rows)
    samples = typical[:, None] * rng.lognormal(0, 1, (rows, 4)) ** spread[:, None]
    capped = np.clip(np.rint(samples), 2, 512).astype(np.int64)
    prompt = np.clip(np.rint(rng.lognormal(np.log(16), 0.6, rows)), 4, 400).astype(np.int64)
    return Sampled(
        prompt_tokens=prompt, samples=capped, greedy=capped[:, 0], cap=512, recorded=False
    )
