"""What the last answers say of the next job: what length is usual, and whom to believe. Pure.

Called by `queue_book`, whenever enough answers have come; `pricing` reckons with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lengthwise_queue.prediction import quality
from lengthwise_store.jobs import Answer


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a queue has seen.

    Attributes:
        usual_tokens: The mean predicted length of its answers, tokens; 0: too few to tell.
        rank_accuracies: Of each predictor, by `calibration.predictor_tag`, the share of pairs that
            it puts in the right order; of those it tells apart, as `verdict` counts them.
    """

    usual_tokens: float = 0.0
    rank_accuracies: Mapping[str, float] = field(default_factory=dict)

    def rank_accuracy(self, predictor: str) -> float | None:
        """That of one predictor; None: too few of its answers have been seen."""
        return self.rank_accuracies.get(predictor)


#: Of a queue whose answers nobody has looked at.
NO_EVIDENCE = Evidence()


def evidence_of(answers: Sequence[Answer]) -> Evidence:
    """What these answers say.

    Args:
        answers: The last ones, in any order; those without a prediction say nothing.
    """
    priced = [answer for answer in answers if answer.priced]
    if len(priced) < quality.WINDOWS[0]:
        return NO_EVIDENCE
    accuracies = {}
    for predictor in {answer.predictor for answer in priced}:
        own = [answer for answer in priced if answer.predictor == predictor]
        accuracy = quality.rank_accuracy(own)
        if accuracy is not None and len(own) >= quality.WINDOWS[0]:
            accuracies[predictor] = accuracy
    return Evidence(
        usual_tokens=sum(answer.priced or 0.0 for answer in priced) / len(priced),
        rank_accuracies=accuracies,
    )
