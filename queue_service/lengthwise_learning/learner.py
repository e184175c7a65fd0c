"""Fits what is learned of a queue to its finished jobs, in closed form.

Kernel regression of what the predictor did not know: log length minus its log p50. Old jobs, which
the kernel has no room for, leave what their words say. Extreme answers are clipped, and cut ones
count as somewhat longer than their cap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_contract.request_view import BUCKETS
from lengthwise_learning.evidence import Evidence
from lengthwise_learning.kernel import OTHER_LLM, WORDS, Factor, Points, gram
from lengthwise_learning.learned import Learned, LearnedCard, LearnedNumbers, repeat_key
from lengthwise_learning.promotion import FIRST_FIT, MOST_EVIDENCE
from lengthwise_learning.view import View
from lengthwise_learning.words import Bags, ridge

Array = NDArray[np.float64]
Index = NDArray[np.int64]

#: Newest jobs that the kernel is fitted to; a fit's time grows with the cube, a prediction's with
#: the number itself.
WINDOW = 2000

#: Newest jobs of other queues, at most, while the window is not full.
DONORS = 1000

#: Newest jobs that the young candidate is fitted to; it exists from twice as many on.
YOUNG = 200

#: LLMs of a fit with weights of their own, and the fewest jobs of one. Jobs of other LLMs are
#: predicted as of an unknown LLM.
_MOST_LLMS, _LEAST_JOBS = 8, 8

#: The diagonal: noise, and its part that fades with the number of jobs.
_NOISE, _EARLY_NOISE = 0.6, 100.0

#: A residual is clipped at so many times the median: two standard deviations of a normal one.
_CLIPPED_AT = 2.97

#: A cut answer is taken for this much longer than its cap, log tokens.
_CUT = math.log(1.5)

#: Of the ridge on old jobs' words: its weight, the share of its prediction that is used, and the
#: most distinct words of all old jobs together.
_ALPHA, _OLD_SHARE, _MOST_WORDS = 1.0, 0.8, 1_000_000

#: Weight of the level of all LLMs beside an LLM's own, as a number of jobs.
_LEVEL_PRIOR = 4.0

#: Last answers of a repeated request that count.
_REPEATS = 5


def fit(
    evidence: Sequence[Evidence], *, finished: int, donors: Sequence[Evidence] = ()
) -> Learned | None:
    """Fit to finished jobs; a pure function, under 1 s.

    Args:
        evidence: Finished jobs of the queue, the oldest first; the newest 10,000 count.
        finished: Finished jobs of the queue, ever.
        donors: Finished jobs of other queues of the installation, the oldest first; the newest
            1,000 count while the queue has few of its own.

    Returns:
        None: too few jobs to learn from (fewer than 32 with the donors).
    """
    if not evidence and not donors:
        return None
    newest = (evidence or donors)[-1].submission.view
    own = [e for e in evidence[-MOST_EVIDENCE:] if _comparable(e, newest)]
    room = min(DONORS, WINDOW - min(len(own), WINDOW))
    others = [e for e in donors if _comparable(e, newest)][-room:] if room else []
    window = [*others, *own[-WINDOW:]]
    if len(window) < FIRST_FIT:
        return None
    old = _newest_by_words(own[:-WINDOW], _MOST_WORDS)
    jobs = _Jobs.of([*old, *window])
    known = slice(len(old), len(jobs.target))
    target = jobs.target.copy()
    words = np.zeros(BUCKETS)
    if len(old) >= FIRST_FIT:
        level = _levels(target, jobs.llm, len(jobs.llms))[1][jobs.llm[: len(old)]]
        before = jobs.bags.rows(0, len(old))
        words = _OLD_SHARE * ridge(before, target[: len(old)] - level, alpha=_ALPHA)
        target -= jobs.bags.times(words)
    bags = jobs.bags.rows(len(old), len(jobs.target))
    llm = jobs.llm[known]
    points = Points.of([e.submission.view for e in window])
    kernel = gram(points, bags.gram(), jobs.application[known], llm)
    fits = [_solve(kernel, target[known], llm, len(jobs.llms))]
    if len(own) >= 2 * YOUNG:
        young = slice(len(window) - YOUNG, len(window))
        part = _solve(kernel[young, young], jobs.target[known][young], llm[young], len(jobs.llms))
        weights = np.zeros(len(window))
        weights[young] = part.weights
        fits.append(_Fit(weights, part.levels, part.level))
    repeats, repeated = _repeats(own)
    named = [
        number
        for number, count in sorted(Counter(llm.tolist()).items(), key=lambda n: (-n[1], n[0]))
        if count >= _LEAST_JOBS
    ][:_MOST_LLMS]
    place = np.zeros(len(jobs.llms), dtype=np.int32)
    place[named] = np.arange(1, len(named) + 1)
    counted = np.flatnonzero(jobs.idf)
    linear, offsets, tables = [], [], []
    for number in (-1, *named):
        shares = np.where(llm == number, 1.0, OTHER_LLM)
        shared = [f.weights * shares for f in fits]
        linear.append([w @ points.linear for w in shared])
        offsets.append([f.level if number < 0 else f.levels[number] for f in fits])
        by_word = [WORDS * bags.sums(w)[counted] for w in shared]
        by_word[0] = by_word[0] + words[counted]
        tables.append(by_word)
    card = LearnedCard(
        version=f"learned-{newest.basis:08x}",
        basis=newest.basis,
        widths=newest.widths,
        finished=finished,
        samples=len(jobs.target),
        llms=tuple(jobs.llms[number] for number in named),
        applications=tuple(jobs.applications),
    )
    numbers = LearnedNumbers(
        kernel=points.kernel.astype(np.float16),
        state=points.state.astype(np.float16),
        application=jobs.application[known].astype(np.int32),
        llm=place[llm],
        weights=np.stack([f.weights for f in fits], axis=1).astype(np.float32),
        linear=np.array(linear, dtype=np.float32),
        offset=np.array(offsets, dtype=np.float32),
        words=counted.astype(np.int32),
        idf=jobs.idf[counted],
        tables=np.array(tables, dtype=np.float32),
        repeats=repeats,
        repeated=repeated,
    )
    return Learned(card, numbers)


@dataclass(frozen=True, eq=False)
class _Jobs:
    """Finished jobs as arrays, a row for each.

    Attributes:
        bags: Their words, scaled.
        idf: float32, (BUCKETS,).
        llm: int64, numbers of `llms`.
        llms: Names.
        application: int64, numbers of `applications`; -1: unknown.
        applications: Names.
        target: float64, log(1 + tokens) minus the predictor's log p50.
    """

    bags: Bags
    idf: NDArray[np.float32]
    llm: Index
    llms: list[str]
    application: Index
    applications: list[str]
    target: Array

    @classmethod
    def of(cls, evidence: Sequence[Evidence]) -> _Jobs:
        submissions = [e.submission for e in evidence]
        bags = Bags.of([s.view for s in submissions])
        idf = bags.idf()
        llms = sorted({s.llm for s in submissions})
        applications = sorted({s.application for s in submissions} - {""})
        llm_at = {name: i for i, name in enumerate(llms)}
        application_at = {name: i for i, name in enumerate(applications)}
        return cls(
            bags=bags.scaled(idf),
            idf=idf,
            llm=np.array([llm_at[s.llm] for s in submissions]),
            llms=llms,
            application=np.array([application_at.get(s.application, -1) for s in submissions]),
            applications=applications,
            target=np.array([_log_tokens(e) - e.submission.static for e in evidence]),
        )


@dataclass(frozen=True, eq=False)
class _Fit:
    """Weights of the jobs, levels of the LLMs, and the level of any other LLM; log tokens."""

    weights: Array
    levels: Array
    level: float


def _solve(kernel: NDArray[np.float32], target: Array, llm: Index, llms: int) -> _Fit:
    """Regress on the kernel; residuals are clipped once, since answers have long tails."""
    level, levels = _levels(target, llm, llms)
    centred = target - levels[llm]
    noise = _NOISE + _EARLY_NOISE / len(target)
    matrix = kernel.astype(np.float64)
    matrix[np.diag_indices_from(matrix)] += noise
    factor = Factor(matrix)
    residual = noise * factor.solve(centred)
    most = _CLIPPED_AT * float(np.median(np.abs(residual)))
    clipped = centred - (residual - np.clip(residual, -most, most))
    return _Fit(factor.solve(clipped), levels, level)


def _levels(target: Array, llm: Index, llms: int) -> tuple[float, Array]:
    """Return the median of all jobs, and of each LLM's jobs, drawn to it where they are few."""
    level = float(np.median(target))
    levels = np.full(llms, level)
    for number in range(llms):
        own = target[llm == number]
        if len(own):
            share = len(own) / (len(own) + _LEVEL_PRIOR)
            levels[number] += share * (float(np.median(own)) - level)
    return level, levels


def _repeats(own: Sequence[Evidence]) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Return the hashes of requests, ascending, and the mean log length of their last answers."""
    answers: dict[int, list[float]] = {}
    for e in reversed(own):
        if e.submission.request:
            key = repeat_key(e.submission.llm, e.submission.request)
            last = answers.setdefault(key, [])
            if len(last) < _REPEATS:
                last.append(_log_tokens(e))
    keys = sorted(answers)
    means = [sum(answers[key]) / len(answers[key]) for key in keys]
    return np.array(keys, dtype=np.uint64), np.array(means, dtype=np.float32)


def _log_tokens(evidence: Evidence) -> float:
    return math.log1p(evidence.tokens) + (_CUT if evidence.censored else 0.0)


def _comparable(evidence: Evidence, view: View) -> bool:
    own = evidence.submission.view
    return own.basis == view.basis and own.widths == view.widths


def _newest_by_words(evidence: Sequence[Evidence], most: int) -> list[Evidence]:
    """Return the newest jobs that have at most so many words together."""
    sizes = np.cumsum([len(e.submission.view.words) for e in reversed(evidence)])
    kept = int(np.searchsorted(sizes, most, side="right"))
    return list(evidence[len(evidence) - kept :])
