"""The registry of what `lengthwise train --task` can learn.

To add a task: write its head and its `Objective` in a module of `heads/`, then add a name to `Task`
and a line to `OBJECTIVES`. No other module of training depends on which task it is.
docs/guides/predictors.md says which published system uses which task.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from lengthwise_training.objectives.config import TaskConfig
from lengthwise_training.objectives.head import Head
from lengthwise_training.objectives.heads import (
    classes,
    distribution,
    quantiles,
    ranking,
    regression,
    scalar,
)
from lengthwise_training.objectives.objective import Objective


class Task(StrEnum):
    """The ways to learn length; each one ends in a predictor that serving can load."""

    #: Tokens, absolute error.
    REGRESSION_L1 = "regression-l1"
    #: Tokens, squared error.
    REGRESSION_MSE = "regression-mse"
    #: Log tokens, squared error.
    REGRESSION_LOG = "regression-log"
    #: Three classes cut at the 50 % and 99 % quantiles.
    CLASSES_3 = "classes-3"
    #: Five classes cut at the 25 %, 50 %, 75 % and 99 % quantiles.
    CLASSES_5 = "classes-5"
    #: Classes of one width in tokens, ten by default.
    CLASSES_EQUAL_WIDTH = "classes-equal-width"
    #: The number of the five-class label, absolute error.
    ORDINAL_L1 = "ordinal-l1"
    #: The number of the five-class label, squared error.
    ORDINAL_MSE = "ordinal-mse"
    #: The five classes by a cumulative link model (proportional odds).
    ORDINAL_CUMULATIVE = "ordinal-cumulative"
    #: Which of two answers is longer.
    PAIRWISE = "pairwise"
    #: The same, both prompts in one input.
    PAIR_CROSS_ENCODER = "pair-cross-encoder"
    #: The order of a list (ListMLE), labels in buckets.
    LISTMLE = "listmle"
    #: A histogram, Gaussian-smoothed, bins even in log tokens.
    DISTRIBUTION = "distribution"
    #: The same with bins of one width in tokens.
    DISTRIBUTION_LINEAR = "distribution-linear"
    #: p10, p50, p90 and the mean by pinball loss.
    QUANTILES = "quantiles"
    #: The longest of several samples.
    SCALAR_MAX = "scalar-max"
    #: The mean of several samples.
    SCALAR_MEAN = "scalar-mean"
    #: A high quantile of several samples.
    SCALAR_QUANTILE = "scalar-quantile"


#: The objective of each task.
OBJECTIVES: dict[Task, Objective] = {
    Task.REGRESSION_L1: regression.L1,
    Task.REGRESSION_MSE: regression.MSE,
    Task.REGRESSION_LOG: regression.LOG,
    Task.CLASSES_3: classes.CLASSES_3,
    Task.CLASSES_5: classes.CLASSES_5,
    Task.CLASSES_EQUAL_WIDTH: classes.EQUAL_WIDTH,
    Task.ORDINAL_L1: classes.ORDINAL_L1,
    Task.ORDINAL_MSE: classes.ORDINAL_MSE,
    Task.ORDINAL_CUMULATIVE: classes.ORDINAL_CUMULATIVE,
    Task.PAIRWISE: ranking.PAIRWISE,
    Task.PAIR_CROSS_ENCODER: ranking.PAIR_CROSS_ENCODER,
    Task.LISTMLE: ranking.LISTMLE,
    Task.DISTRIBUTION: distribution.LOG_BINS,
    Task.DISTRIBUTION_LINEAR: distribution.LINEAR_BINS,
    Task.QUANTILES: quantiles.QUANTILES_AND_MEAN,
    Task.SCALAR_MAX: scalar.MAX,
    Task.SCALAR_MEAN: scalar.MEAN,
    Task.SCALAR_QUANTILE: scalar.QUANTILE,
}


def build_head(task: Task, lengths: NDArray[np.float32], config: TaskConfig) -> Head:
    """Build the head of a task.

    Args:
        task: Which.
        lengths: float32, the training samples, tokens; cut ones at their cap.
        config: The tasks' numbers.
    """
    return OBJECTIVES[task].head(lengths, config)
