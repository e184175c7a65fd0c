"""The progress of a run, which its checkpoint stores."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FitProgress:
    """The part of a checkpoint beside the weights.

    Attributes:
        epoch: Epochs done.
        seconds: Time of training so far.
        cpu_seconds: CPU time of training so far, which other load on the machine does not lengthen.
        best_tau: Best tau-b on the validation rows so far.
        history: tau-b of every epoch.
    """

    epoch: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    best_tau: float = -2.0
    history: list[float] = field(default_factory=list)
