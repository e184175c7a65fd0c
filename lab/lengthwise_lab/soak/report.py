"""The report of a soak: memory samples, and the keys that should not exist. Pure.

Filled in by run.py; printed by `lengthwise bench soak`.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

#: Used memory that returns to within this counts as unchanged, bytes: between two samples of an
#: idle server, its own buffers and its allocator change it by 0.2 MB.
_SAME_BYTES = 2**20


@dataclass(frozen=True)
class MemorySample:
    """The keys and the memory of Redis at one time."""

    at_s: float  #: Since the start.
    keys: int
    used_bytes: int
    immortal: int  #: Keys without a time to live.


@dataclass(kw_only=True)
class SoakReport:
    """The result of a soak."""

    seconds: float
    submitted: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    samples: list[MemorySample] = field(default_factory=list)
    strays: dict[str, str] = field(default_factory=dict)  #: Key without a bound -> the reason.
    baseline: MemorySample | None = None
    after: MemorySample | None = None
    left: list[str] = field(default_factory=list)  #: Unbounded keys that outlive the retention.

    @property
    def drift(self) -> float:
        """Used memory of the last third of the load over that of the second, as a ratio."""
        third = len(self.samples) // 3
        if third < 1:
            return 1.0
        used = [sample.used_bytes for sample in self.samples]
        return statistics.mean(used[-third:]) / statistics.mean(used[third:-third] or used)

    @property
    def grown_bytes(self) -> int:
        """Used memory after the retention, minus that before the load."""
        if self.baseline is None or self.after is None:
            return 0
        return self.after.used_bytes - self.baseline.used_bytes

    @property
    def ok(self) -> bool:
        """Whether Redis kept no key and no memory that it should not keep."""
        return (
            not self.strays
            and not self.left
            and self.submitted > 0
            and self.grown_bytes < _SAME_BYTES
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        peak = max(self.samples, key=lambda sample: sample.used_bytes, default=None)
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "submitted": self.submitted,
            "fates": dict(self.fates),
            "strays": self.strays,
            "left_after_retention": self.left,
            "memory_drift": round(self.drift, 4),
            "grown_bytes": self.grown_bytes,
            "baseline": vars(self.baseline) if self.baseline else None,
            "peak": vars(peak) if peak else None,
            "after": vars(self.after) if self.after else None,
        }
