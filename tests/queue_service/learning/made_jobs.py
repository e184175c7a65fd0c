"""Finished jobs made of numbers: lengths follow from the view, the words or the application."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lengthwise_learning.evidence import Evidence, Submission
from lengthwise_learning.view import View

WIDTHS = (1, 3, 4, 5, 12, 8)

#: What the predictor says of every job that is made here, log tokens.
STATIC = 4.0


def view(rng: np.random.Generator, *, words: tuple[int, ...] = (), basis: int = 7) -> View:
    """Make a view of random numbers and the given words, beside five random ones."""
    vector = rng.normal(0, 0.3, sum(WIDTHS))
    vector[0] = STATIC
    both = np.sort(np.concatenate([rng.integers(0, 300, 5), np.array(words, dtype=int)]))
    as_stored = vector.astype("<f2").astype(np.float32)
    return View(basis, WIDTHS, as_stored, both.astype(np.uint16))


def job(
    rng: np.random.Generator,
    log_tokens: float = STATIC,
    *,
    words: tuple[int, ...] = (),
    censored: bool = False,
    basis: int = 7,
    **facts: Any,
) -> Evidence:
    """Make a finished job of about this length."""
    tokens = max(1, round(math.exp(log_tokens + rng.normal(0, 0.1))))
    given = {"llm": "llm", "static": STATIC, **facts}
    return Evidence(
        submission=Submission(view=view(rng, words=words, basis=basis), **given),
        tokens=tokens,
        censored=censored,
    )


def by_view(
    rng: np.random.Generator, count: int, *, slope: float = 2.0, **facts: Any
) -> list[Evidence]:
    """Make jobs whose log length follows from the first of the view's counts."""
    out = []
    for _ in range(count):
        made = job(rng, **facts)
        log_tokens = STATIC + slope * float(made.submission.view.part("counts")[0])
        tokens = max(1, round(math.exp(log_tokens + rng.normal(0, 0.1))))
        out.append(Evidence(submission=made.submission, tokens=tokens, censored=made.censored))
    return out
