"""An objective: a head, and all that depends on it elsewhere in training.

`tasks.OBJECTIVES` registers each one under the name of its task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_training.objectives.config import TaskConfig
from lengthwise_training.objectives.head import Head


@dataclass(frozen=True)
class OwnDecision:
    """The decision rule of a method's inventors, if it differs from the product's p50.

    Attributes:
        label: Its name in the table of all tasks.
        key: Prefix of its scores in metrics.json: `{key}_tau_b` and `{key}_pairs`.
    """

    label: str
    key: str


@dataclass(frozen=True)
class Objective:
    """The objective of a task.

    Attributes:
        head: Builds the head from the training lengths (float32, tokens; cut ones at their cap) and
            the tasks' numbers.
        answers: One sentence for the model card: how it gets from what it learns to tokens.
        limits: Further limits for the model card.
        reads_pairs: Two prompts are read in one input: it needs texts, anchors and `PairTrainer`.
        own_decision: Scored beside p50; None: its inventors decide by p50.
    """

    head: Callable[[NDArray[np.float32], TaskConfig], Head]
    answers: str
    limits: tuple[str, ...] = ()
    reads_pairs: bool = False
    own_decision: OwnDecision | None = None
