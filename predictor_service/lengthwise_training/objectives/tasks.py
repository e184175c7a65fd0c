"""What `lengthwise train --task` can be told to learn, and with which numbers; values only.

Called by the command line, heads and fit. Each task is one of the ways in which length has been
learned elsewhere, or ours; docs/guides/predictors.md says which is whose.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """The ways to learn length; every one ends in a predictor that serving can load."""

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
    #: Classes of one width in tokens, ten unless told otherwise.
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


#: Quantiles that cut the percentile classes, by task.
PERCENTILES: dict[Task, tuple[float, ...]] = {
    Task.CLASSES_3: (0.5, 0.99),
    Task.CLASSES_5: (0.25, 0.5, 0.75, 0.99),
    Task.ORDINAL_L1: (0.25, 0.5, 0.75, 0.99),
    Task.ORDINAL_MSE: (0.25, 0.5, 0.75, 0.99),
    Task.ORDINAL_CUMULATIVE: (0.25, 0.5, 0.75, 0.99),
}


@dataclass(frozen=True)
class TaskConfig:
    """The numbers of the tasks; each is used by those it names.

    Attributes:
        label_max_tokens: Longest label of the equal-width classes, linear bins and scalars, tokens;
            longer answers are in the last class or bin.
        classes: Classes of one width.
        class_weights: Whether percentile classes are weighted by their inverse counts.
        bucket_tokens: Lengths within one bucket are tied for ListMLE, tokens.
        bins: Bins of the histogram that is even in log tokens.
        sigma_bins: Its smoothing, bins.
        linear_bins: Bins of the histogram that is even in tokens.
        sigma_tokens: Its smoothing, tokens.
        scalar_quantile: Which quantile the scalar of that name is, 0 to 1.
        anchors: Prompts that the cross-encoder compares a prompt with.
    """

    label_max_tokens: int = 8192
    classes: int = 10
    class_weights: bool = True
    bucket_tokens: int = 10
    bins: int = 96
    sigma_bins: float = 2.0
    linear_bins: int = 1024
    sigma_tokens: float = 32.0
    scalar_quantile: float = 0.8
    anchors: int = 8
