"""Is the predictor worth following? Pure; `rank_watch` acts on it, metrics and views show it.

Judged are the predictions as they came, before calibration, cut at the request's cap: the order
that they alone would make. Three things make this harder than comparing one number with a limit:

- Under short-first the last answers are alike: those at the front of a long line were predicted
  about equal. Nobody can order equals, so only pairs count that the predictor tells apart, and
  there is no verdict where these are few (docs/research/experiments.md, "the watch's false
  alarms").
- A predictor that turned bad should be found out before 256 answers. So the last 32, 64 and 128
  are judged too, each with a margin for its noise.
- Answers from before the last verdict say nothing about whether it is still right; nor do those
  that are older than `drift_window_ms`, of a predictor or a traffic that may be gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lengthwise_contract.prediction import PredictionQuality
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.prediction.accuracy import Ranking
from lengthwise_queue.scheduling import policy
from lengthwise_store.jobs import Answer, QueueStats

#: Two predictions are told apart when one is so many times the other. With 1.2 a good predictor was
#: still condemned in 12 of 1,027 looks at a burst, with 1.5 in none (experiments, as above).
APART = 1.5

#: Least share of all pairs that must be told apart for a verdict.
_SHARE = 0.25

#: Answers that are judged: the last so many.
WINDOWS = (32, 64, 128, 256)

#: Standard deviations below the limit at which a window smaller than the last one condemns.
_CONDEMNS = 3.0

#: How far above the limit the accuracy must be before short-first is trusted again: twice the
#: standard deviation of 256 answers (0.02), so that the verdict does not flap.
RECOVERY = 0.04

#: Standard deviations above that at which a smaller window acquits; of 64 answers at least.
_ACQUITS = 1.0
_FEWEST_TO_ACQUIT = 64


def expectations(answers: Iterable[Answer]) -> list[tuple[float | None, int]]:
    """Of each answer what the raw prediction expected, tokens (None: nothing), and what came."""
    return [(_expected(answer), answer.tokens) for answer in answers]


def _expected(answer: Answer) -> float | None:
    if answer.raw is None:
        return answer.priced
    return answer.count * policy.mean_of_cut(answer.raw, answer.max_tokens)


def rank_accuracy(answers: Iterable[Answer]) -> float | None:
    """The share of pairs, of those told apart, whose predictions name the longer one."""
    return Ranking.of(expectations(answers), apart=APART).accuracy


def spread(n: int) -> float:
    """The standard deviation of a coin's pair accuracy over n answers, n >= 2.

    Source: that of Kendall's tau under independence, 2(2n + 5) / 9n(n - 1), halved.
    """
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) / 2


def fallback_wanted(answers: Sequence[Answer], *, fallback: bool, settings: QueueSettings) -> bool:
    """Whether a queue should be served in order of acceptance for want of good predictions.

    Args:
        answers: Those since the last verdict, newest first.
        fallback: Whether it is so served now.
        settings: The queue's; `min_rank_accuracy` is the limit.

    Returns:
        As it is now, while too few answers had a prediction to tell.
    """
    limit = settings.min_rank_accuracy
    if limit is None:
        return False
    known = [pair for pair in expectations(answers) if pair[0]]
    # The newest evidence that decides, decides: what is older is of a predictor that may be gone.
    for n in WINDOWS:
        if len(known) < n:
            break
        ranking = Ranking.of(known[:n], apart=APART)
        accuracy = ranking.accuracy
        if accuracy is None or ranking.pairs < _SHARE * ranking.possible:
            continue
        noise = 0.0 if n == WINDOWS[-1] else spread(n)
        if accuracy < limit - _CONDEMNS * noise:
            return True
        if n >= _FEWEST_TO_ACQUIT and accuracy >= limit + RECOVERY + _ACQUITS * noise:
            return False
    return fallback


def recent(stats: QueueStats, settings: QueueSettings) -> list[Answer]:
    """The last answers, without those older than the drift window."""
    if settings.drift_window_ms is None:
        return stats.answers
    oldest_s = (stats.now_ms - settings.drift_window_ms) / 1000
    return [a for a in stats.answers if a.at_s is None or a.at_s >= oldest_s]


def unjudged(stats: QueueStats, settings: QueueSettings) -> list[Answer]:
    """The recent answers, without those that the last verdict rested on."""
    done = stats.counters.get("succeeded", 0)
    answers = recent(stats, settings)
    if done < stats.judged_at:  # the store was emptied
        return answers
    return answers[: done - stats.judged_at]


def prediction_quality(stats: QueueStats, settings: QueueSettings) -> PredictionQuality:
    """What is held of the predictor now, in a word."""
    if settings.min_rank_accuracy is not None and stats.fallback:
        return "degraded"
    known = sum(answer.priced is not None for answer in recent(stats, settings))
    return "healthy" if known >= WINDOWS[0] else "insufficient_data"
