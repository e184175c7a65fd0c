"""The result of a stream: the means over its orders, as `bench learn --json` prints them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lengthwise_lab.learning.replay import After, Replay
from lengthwise_lab.learning.streams import LearnStream


@dataclass(frozen=True)
class StreamResult:
    """What was measured of one stream.

    Attributes:
        llm: Its LLM.
        source: Its source.
        runs: One for each order.
    """

    llm: str
    source: str
    runs: tuple[Replay, ...]

    @classmethod
    def of(cls, stream: LearnStream, runs: Sequence[Replay]) -> StreamResult:
        """Name the runs of a stream."""
        return cls(stream.llm, stream.source, tuple(runs))

    def as_json(self) -> dict[str, Any]:
        """Return the means over the orders."""
        after = [
            _means([one for run in self.runs for one in run.after if one.jobs == jobs])
            for jobs in sorted({one.jobs for run in self.runs for one in run.after})
        ]
        return {
            "llm": self.llm,
            "source": self.source,
            "after": after,
            "predict_us": round(statistics.mean(r.predict_us for r in self.runs), 1),
            "fit_ms": round(statistics.mean(r.fit_ms for r in self.runs), 1),
        }


def _means(found: Sequence[After]) -> dict[str, Any]:
    out: dict[str, Any] = {"jobs": found[0].jobs, "scored": found[0].scored}
    for what in ("tau", "pairs", "within"):
        for name in ("static", "learned", "served"):
            values = [getattr(one, what)[name] for one in found if name in getattr(one, what)]
            if values:
                out[f"{what}_{name}"] = _round(values)
    for load in ("095", "12"):
        each = [getattr(one, f"gain_{load}") for one in found]
        if not all(each):
            continue
        for name, suffix in (("served", ""), ("static", "_static")):
            out[f"oracle_share_{load}{suffix}"] = _round([g[name].share for g in each])
            out[f"p99_ratio_{load}{suffix}"] = _round([g[name].p99_ratio for g in each])
    out["served"] = [one.candidate.value for one in found]
    return out


def _round(values: Sequence[float]) -> float:
    return round(statistics.mean(values), 4)
