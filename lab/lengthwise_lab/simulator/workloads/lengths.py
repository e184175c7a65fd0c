"""The sources of lengths: recorded files, published quantiles and named distributions.

A source is a table of (prompt, output, recorded class) that is drawn from with replacement, so ten
million requests need no more memory than the table. Called by question.py and reproductions.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from scipy.stats import norm

from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.simulator.core.state import Floats, Ints

#: Rows of a table for a distribution: its quantiles at so many even steps.
EVEN = 20_000
#: Output tokens at (share of requests, tokens), as published or measured.
#: `ssjf` is LMSYS-chat-1M answered by Vicuna-13B, cut at 511, the rows that SSJF predicted.
PUBLISHED: dict[str, list[tuple[float, int]]] = {
    "ssjf": [(0, 2), (0.1, 13), (0.25, 41), (0.5, 140), (0.75, 294), (0.9, 397), (0.95, 447),
             (0.99, 502), (1, 511)],
    "azure-conv": [(0, 10), (0.1, 54), (0.25, 85), (0.5, 129), (0.75, 395), (0.9, 424),
                   (0.95, 451), (0.99, 601), (1, 1000)],
    "azure-code": [(0, 4), (0.1, 7), (0.25, 9), (0.5, 13), (0.75, 24), (0.9, 55), (0.95, 90),
                   (0.99, 252), (1, 1899)],
    # 13 LLMs of 2024-25 on ShareGPT prompts; the lowest decile is a guess, the rest measured.
    "sharegpt": [(0, 4), (0.1, 120), (0.5, 515), (0.9, 1131), (0.99, 2115), (1, 4000)],
}  # fmt: skip
#: Their prompt tokens: mean and coefficient of variation.
PUBLISHED_PROMPTS = {
    "ssjf": (70.0, 1.5),
    "azure-conv": (1155.0, 0.9),
    "azure-code": (2048.0, 0.9),
    "sharegpt": (220.0, 1.2),
}


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A table to draw from; all (rows,). `arrival_s` is set if it was recorded as a trace."""

    prompt: Ints
    output: Ints
    recorded: Ints
    arrival_s: Floats | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.output)


def published(name: str) -> Lengths:
    """Return lengths with the known quantiles of a data set, linear between them."""
    points = PUBLISHED[name]
    shares = (np.arange(EVEN) + 0.5) / EVEN
    output = np.interp(shares, [share for share, _ in points], [tokens for _, tokens in points])
    mean, cv = PUBLISHED_PROMPTS[name]
    return _table(output, prompt_mean=mean, prompt_cv=cv)


def log_normal(mean: float, cv: float, *, prompt_mean: float, prompt_cv: float) -> Lengths:
    """Return log-normal lengths: a long tail, as in a chat without a cap."""
    return _table(_log_normal(mean, cv), prompt_mean=prompt_mean, prompt_cv=prompt_cv)


def exponential(mean: float, *, prompt_mean: float, prompt_cv: float) -> Lengths:
    """Return exponential lengths, the best known case of queueing theory."""
    shares = (np.arange(EVEN) + 0.5) / EVEN
    return _table(-mean * np.log1p(-shares), prompt_mean=prompt_mean, prompt_cv=prompt_cv)


def fixed(tokens: int, *, prompt_mean: float, prompt_cv: float) -> Lengths:
    """Return answers of one length, which no order can improve."""
    return _table(np.full(EVEN, float(tokens)), prompt_mean=prompt_mean, prompt_cv=prompt_cv)


def _log_normal(mean: float, cv: float) -> Floats:
    if cv <= 0:
        return np.full(EVEN, mean)
    sigma = np.sqrt(np.log1p(cv**2))
    shares = (np.arange(EVEN) + 0.5) / EVEN
    return np.asarray(np.exp(np.log(mean) - sigma**2 / 2 + sigma * norm.ppf(shares)))


def _table(output: Floats, *, prompt_mean: float, prompt_cv: float) -> Lengths:
    """Combine outputs with prompts of independent rank, as in both Azure traces."""
    prompt = np.random.default_rng(5).permutation(_log_normal(prompt_mean, prompt_cv))
    return Lengths(
        prompt=np.maximum(1, np.rint(prompt)).astype(np.int64),
        output=np.maximum(1, np.rint(output)).astype(np.int64),
        recorded=np.full(len(output), -1),
    )


def read_lengths(
    path: Path, *, model: str = "", source: str = "", classes: str = "pred_class5"
) -> Lengths:
    """Read the rows of a CSV or JSONL file, gzipped or not.

    A CSV has the column `output_tokens` and may have `prompt_tokens`, `arrival_s` and recorded
    classes. A line of JSONL has `output_tokens` (an integer, or a list: each is a row) and may have
    `prompt_tokens`.

    Args:
        path: The file.
        model: Only rows of this LLM; empty: all.
        source: Only rows of this data set; empty: all.
        classes: The column of a predictor's classes.

    Raises:
        BadWorkload: The file cannot be read, or has no such row.
    """
    try:
        rows = list(_jsonl(path, model, source) if ".jsonl" in path.name else _csv(path, classes))
    except FileNotFoundError as exc:
        raise BadWorkload(
            f"{path} does not exist; give the folder that holds it with --data"
        ) from exc
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError) as exc:
        raise BadWorkload(f"cannot read lengths from {path}: {exc!r}") from exc
    if not rows:
        raise BadWorkload(f"{path} has no row of model {model!r} and source {source!r}")
    prompt, output, recorded, arrival = zip(*rows, strict=True)
    timed = arrival[0] is not None
    return Lengths(
        prompt=np.maximum(1, np.array(prompt, np.int64)),
        output=np.maximum(1, np.array(output, np.int64)),
        recorded=np.array(recorded, np.int64),
        arrival_s=np.array(arrival, np.float64) if timed else None,
    )


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _csv(path: Path, classes: str) -> Iterator[tuple[int, int, int, float | None]]:
    with _opened(path) as lines:
        for row in csv.DictReader(lines):
            yield (
                int(row.get("prompt_tokens") or 70),
                int(row["output_tokens"]),
                int(row.get(classes) or -1),
                float(row["arrival_s"]) if row.get("arrival_s") else None,
            )


def _jsonl(path: Path, model: str, source: str) -> Iterator[tuple[int, int, int, None]]:
    with _opened(path) as lines:
        for line in lines:
            row = json.loads(line)
            if (model and row.get("model") != model) or (source and row.get("source") != source):
                continue
            if row.get("degenerate"):
                continue  # an endless answer, by the rule of the data set
            many = row["output_tokens"]
            for tokens in many if isinstance(many, list) else [many]:
                yield int(row.get("prompt_tokens") or 70), int(tokens), -1, None
