"""The numbers of the tasks, such as bin counts; values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskConfig:
    """The numbers of the tasks; each is used by the tasks named here.

    Attributes:
        label_max_tokens: Longest label of the equal-width classes, linear bins and scalars, tokens;
            longer answers are in the last class or bin.
        classes: Number of classes of equal width.
        class_weights: Whether percentile classes are weighted by their inverse counts.
        bucket_tokens: Lengths within one bucket are tied for ListMLE, tokens.
        bins: Bins of the histogram that is even in log tokens.
        sigma_bins: Its smoothing, bins.
        linear_bins: Bins of the histogram that is even in tokens.
        sigma_tokens: Its smoothing, tokens.
        scalar_quantile: The quantile of `scalar-quantile`, 0 to 1.
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
