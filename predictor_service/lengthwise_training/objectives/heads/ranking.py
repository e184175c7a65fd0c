"""Heads that learn only which of several answers is longer."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from lengthwise_training.objectives.head import Head, LengthBatch, usual_tokens
from lengthwise_training.objectives.losses import list_mle, pair_logistic
from lengthwise_training.objectives.objective import Objective, OwnDecision


class Ranker(Head):
    """A score that orders answers, larger for longer; calibration turns it into tokens."""

    ranks_only = True

    def __init__(self, usual_tokens: float, bucket_tokens: int | None) -> None:
        """`bucket_tokens`: lengths this close tie, and lists are learned; None learns pairs."""
        super().__init__()
        self.bucket_tokens = bucket_tokens
        self.register_buffer("log_usual", torch.tensor(math.log(usual_tokens)))

    @override
    def loss(self, raw: Tensor, batch: LengthBatch) -> Tensor:
        length, cut = batch.one()
        if self.bucket_tokens is None:
            return pair_logistic(raw[:, 0], length, cut)
        bucket = torch.floor(length / self.bucket_tokens)
        # The list is ordered short first, as a queue needs it.
        return list_mle(-raw[:, 0], bucket, cut, batch.order) / len(length)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        return raw[:, 0] + self.log_usual


class Insertion(Head):
    """The share of anchors that an answer is longer than; `fitting.pair_trainer` learns it."""

    ranks_only = True

    def __init__(self, usual_tokens: float) -> None:
        super().__init__()
        self.register_buffer("log_usual", torch.tensor(math.log(usual_tokens)))

    @override
    def middle(self, raw: Tensor) -> Tensor:
        # A usual length has as many anchors below as above.
        return raw[:, 0] - 0.5 + self.log_usual


_LIMITS = ("Its tokens are those of the validation rows' LLMs; only its order was learned.",)

PAIRWISE = Objective(
    lambda lengths, _: Ranker(usual_tokens(lengths), bucket_tokens=None),
    "It predicts which of two answers is longer, so all it knows is an order; tokens "
    "come from isotonic regression of length on its score on the validation rows.",
    limits=_LIMITS,
)
LISTMLE = Objective(
    lambda lengths, config: Ranker(usual_tokens(lengths), config.bucket_tokens),
    "It predicts the order of a list of answers; tokens come from isotonic regression "
    "of length on its score on the validation rows.",
    limits=_LIMITS,
)
#: Its inventors order a list by binary insertion, see `fitting.insertion`.
PAIR_CROSS_ENCODER = Objective(
    lambda lengths, _: Insertion(usual_tokens(lengths)),
    "It predicts which of two prompts read together has the longer answer; a "
    "prompt's score is the share of a few fixed prompts that it is longer than, and tokens come "
    "from isotonic regression of length on that score on the validation rows.",
    reads_pairs=True,
    own_decision=OwnDecision("insertion", "inserted"),
)
