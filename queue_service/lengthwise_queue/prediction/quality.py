"""Judge the predictor by the last answers. Pure.

Called by `background.fallback_controller`, which acts on the judgement, by the queue cache and
pricing, which use the accuracy, and by the metrics and views, which show it.

The predictions that were served are judged, be they the predictor's or learned: before calibration,
cut at the request's cap. That is the order that they alone would make. Three things make this
harder than the comparison of one number with a limit:

- Under `sjf` the last answers are alike: the jobs at the front of a long queue have about equal
  predictions. No predictor can order equals, so only pairs count that the predictor tells apart,
  and there is no judgement where such pairs are few (docs/research/experiments.md, "the watch's
  false alarms").
- A predictor that turned bad should be detected before 256 answers. So the last 32, 64 and 128 are
  judged too, each with a margin for its noise.
- Answers that the last judgement used do not show whether it is still right. Answers older
  than `drift_window_ms` belong to a predictor or a traffic that may be gone. Neither is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lengthwise_contract.defaults import ANSWERS_KEPT
from lengthwise_contract.prediction import PredictionQuality
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.prediction.accuracy import Ranking
from lengthwise_queue.prediction.candidates import by_candidate, served_on_one_scale
from lengthwise_queue.prediction.expected_length import mean_of_cut
from lengthwise_store.prediction_record import MeasuredAnswer, Quantiles
from lengthwise_store.queues import QueueStats

#: A predictor tells two answers apart when one prediction is this many times the other. With 1.2 a
#: good predictor was still judged bad in 12 of 1,027 checks during a burst, with 1.5 in none
#: (experiments, as above).
APART = 1.5

#: The least share of all pairs that must be told apart for a judgement.
_SHARE = 0.25

#: How many of the last answers are judged, one after the other.
WINDOWS = (32, 64, 128, ANSWERS_KEPT)

#: Standard deviations below the limit at which a window smaller than the last suspends `sjf`.
_SUSPENDS = 3.0

#: How far above the limit the accuracy must be before `sjf` resumes: twice the standard deviation
#: of 256 answers (0.02), so that the judgement does not flap.
RECOVERY = 0.04

#: Standard deviations above that at which a smaller window, of 64 answers or more, resumes `sjf`.
_RESUMES = 1.0
_FEWEST_TO_RESUME = 64


def expectations(answers: Iterable[MeasuredAnswer]) -> list[tuple[float | None, int]]:
    """Pair the length that the raw prediction expected with the real one, for each answer, tokens.

    The expected length is None where the answer had no prediction.
    """
    known = list(answers)
    raws = served_on_one_scale(known)
    return [
        (_expected(answer, raw), answer.tokens) for answer, raw in zip(known, raws, strict=True)
    ]


def _expected(answer: MeasuredAnswer, raw: Quantiles | None) -> float | None:
    if raw is None:
        return answer.priced
    return answer.count * mean_of_cut(raw, answer.max_tokens)


def rank_accuracy(answers: Iterable[MeasuredAnswer]) -> float | None:
    """Compute the share of pairs that were predicted in the right order, of those told apart.

    Returns:
        0 to 1; None: too few pairs.
    """
    return Ranking.of(expectations(answers), apart=APART).accuracy


def spread(n: int) -> float:
    """Compute the standard deviation of a coin's pair accuracy over n answers, n >= 2.

    Source: that of Kendall's tau under independence, 2(2n + 5) / 9n(n - 1), halved.
    """
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) / 2


def fallback_wanted(
    answers: Sequence[MeasuredAnswer], *, fallback: bool, settings: QueueSettings
) -> bool:
    """Decide whether a queue is served in the order of acceptance, because predictions are bad.

    Args:
        answers: The answers since the last judgement, the newest first.
        fallback: Whether the queue is served so now.
        settings: The queue's; `min_rank_accuracy` is the limit.

    Returns:
        `fallback`, while too few answers had a prediction.
    """
    limit = settings.min_rank_accuracy
    if limit is None:
        return False
    known = [pair for pair in expectations(answers) if pair[0]]
    # The smallest window that allows a judgement decides: older answers may be of a predictor that
    # is gone.
    for n in WINDOWS:
        if len(known) < n:
            break
        ranking = Ranking.of(known[:n], apart=APART)
        accuracy = ranking.accuracy
        if accuracy is None or ranking.pairs < _SHARE * ranking.possible:
            continue
        noise = 0.0 if n == WINDOWS[-1] else spread(n)
        if accuracy < limit - _SUSPENDS * noise:
            return True
        if n >= _FEWEST_TO_RESUME and accuracy >= limit + RECOVERY + _RESUMES * noise:
            return False
    return fallback


def recent(stats: QueueStats, settings: QueueSettings) -> list[MeasuredAnswer]:
    """Select the last answers that are not older than the drift window."""
    if settings.drift_window_ms is None:
        return stats.answers
    oldest_s = (stats.now_ms - settings.drift_window_ms) / 1000
    return [a for a in stats.answers if a.at_s is None or a.at_s >= oldest_s]


def unjudged(stats: QueueStats, settings: QueueSettings) -> list[MeasuredAnswer]:
    """Select the recent answers that the last judgement did not use."""
    done = stats.counters.get("succeeded", 0)
    answers = recent(stats, settings)
    if done < stats.judged_at:  # the store was emptied
        return answers
    return answers[: done - stats.judged_at]


def prediction_quality(stats: QueueStats, settings: QueueSettings) -> PredictionQuality:
    """Summarize the judgement in force, for a user."""
    if settings.min_rank_accuracy is not None and stats.fallback:
        return "degraded"
    known = sum(answer.priced is not None for answer in recent(stats, settings))
    return "healthy" if known >= WINDOWS[0] else "insufficient_data"


@dataclass(frozen=True, kw_only=True)
class AnswerStatistics:
    """Statistics of the last answers: the usual length, and the accuracy of each predictor.

    Attributes:
        usual_tokens: The mean predicted length of the answers, tokens; 0: too few answers.
        rank_accuracies: The `rank_accuracy` of each predictor and of each candidate beside it, by
            `candidates.tag_of`.
    """

    usual_tokens: float = 0.0
    rank_accuracies: Mapping[str, float] = field(default_factory=dict)

    def rank_accuracy(self, predictor: str) -> float | None:
        """Return the accuracy of one predictor; None: it has too few answers."""
        return self.rank_accuracies.get(predictor)


#: The statistics of a queue without answers.
NO_STATISTICS = AnswerStatistics()


def statistics_of(answers: Sequence[MeasuredAnswer]) -> AnswerStatistics:
    """Compute the statistics of these answers.

    Args:
        answers: The last ones, in any order; those without a prediction are ignored.
    """
    priced = [answer for answer in answers if answer.priced]
    if len(priced) < WINDOWS[0]:
        return NO_STATISTICS
    accuracies = {}
    each = [replace(one, learning=None) for one in by_candidate(priced)]
    for predictor in {answer.predictor for answer in each}:
        own = [answer for answer in each if answer.predictor == predictor]
        accuracy = rank_accuracy(own)
        if accuracy is not None and len(own) >= WINDOWS[0]:
            accuracies[predictor] = accuracy
    return AnswerStatistics(
        usual_tokens=sum(answer.priced or 0.0 for answer in priced) / len(priced),
        rank_accuracies=accuracies,
    )
