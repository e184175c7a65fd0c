"""Compute the report of a stream: when the fallback reacted, and the cost before and after. Pure.

Called by `lengthwise bench drift` with the outcomes of run.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lengthwise_lab.drift.run import Outcomes
from lengthwise_lab.drift.streams import Stream, StreamRequest

#: Number of equal parts whose means are printed.
WINDOWS = 12


@dataclass(frozen=True, kw_only=True)
class Change:
    """From the first request of a phase to the first check with the right decision."""

    requests: int  #: Accepted in this time.
    answers: int  #: Answers that ended in this time.
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PhaseReport:
    """One phase of a stream. Ratios are of mean completion times, over those of fcfs."""

    good: bool
    first: int  #: Its first request.
    count: int
    ratio: float  #: Of Lengthwise, in the whole phase.
    plain_sjf_ratio: float  #: Short first without fallback and calibration.
    change: Change | None  #: None: the decision was already right, or it never was.
    detected: bool  #: Whether the decision became right in this phase.
    after_detection_count: int  #: Requests accepted after that, to the end of the phase.
    after_detection_ratio: float | None  #: Of Lengthwise, for those requests.
    wrong_checks: int  #: Checks after that with a wrong decision.
    checks: int  #: Checks in the phase.


@dataclass(frozen=True, kw_only=True)
class StreamReport:
    """One stream, served by three variants."""

    stream: str
    why: str
    requests: int
    means_s: dict[str, float]
    windows: list[dict[str, float]]  #: Mean completion of each part, s, by variant.
    phases: list[PhaseReport]
    raw_coverage: float | None  #: At the last check.
    coverage: float | None
    calibration_factor: float

    def as_json(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        return asdict(self)


def report(
    stream: Stream, requests: Sequence[StreamRequest], runs: dict[str, Outcomes]
) -> StreamReport:
    """Compute the report of one stream.

    Args:
        stream: The stream.
        requests: Its requests.
        runs: The outcomes of `fcfs`, `lengthwise` and `plain_sjf`.
    """
    n = len(requests)
    windows = [range(i * n // WINDOWS, (i + 1) * n // WINDOWS) for i in range(WINDOWS)]
    last = runs["lengthwise"].observations[-1] if runs["lengthwise"].observations else None
    return StreamReport(
        stream=stream.name,
        why=stream.why,
        requests=n,
        means_s={variant: _mean(run, range(n)) for variant, run in runs.items()},
        windows=[{variant: _mean(run, part) for variant, run in runs.items()} for part in windows],
        phases=[_phase(stream, requests, runs, number) for number in range(len(stream.phases))],
        raw_coverage=last.raw_coverage if last else None,
        coverage=last.coverage if last else None,
        calibration_factor=last.calibration_factor if last else 1.0,
    )


def _phase(
    stream: Stream, requests: Sequence[StreamRequest], runs: dict[str, Outcomes], number: int
) -> PhaseReport:
    good = stream.phases[number].is_good
    part = [i for i, r in enumerate(requests) if r.phase == number]
    first, after = part[0], part[-1] + 1
    lengthwise = runs["lengthwise"]
    start_s = requests[first].at_s
    end_s = requests[after].at_s if after < len(requests) else float("inf")
    before = [one for one in lengthwise.observations if one.at_s <= start_s]
    observed = [one for one in lengthwise.observations if start_s < one.at_s <= end_s]
    last = before[-1] if before else None
    change, since = None, first
    right = [one for one in observed if one.suits(good=good)]
    already = last.suits(good=good) if last else good
    if right and not already:
        change = Change(
            requests=right[0].accepted - first,
            answers=right[0].answered - (last.answered if last else 0),
            seconds=right[0].at_s - start_s,
        )
        since = right[0].accepted
    detected = bool(right) or already
    rest = range(since, after) if detected else range(0)
    later = [one for one in observed if one.accepted >= since] if detected else []
    return PhaseReport(
        good=good,
        first=first,
        count=len(part),
        ratio=_ratio(runs["lengthwise"], runs["fcfs"], part),
        plain_sjf_ratio=_ratio(runs["plain_sjf"], runs["fcfs"], part),
        change=change,
        detected=detected,
        after_detection_count=len(rest),
        after_detection_ratio=_ratio(runs["lengthwise"], runs["fcfs"], rest) if len(rest) else None,
        wrong_checks=sum(not one.suits(good=good) for one in later),
        checks=len(observed),
    )


def _mean(run: Outcomes, part: Sequence[int]) -> float:
    return sum(run.completion_s[i] for i in part) / len(part)


def _ratio(one: Outcomes, other: Outcomes, part: Sequence[int]) -> float:
    return _mean(one, part) / _mean(other, part)
