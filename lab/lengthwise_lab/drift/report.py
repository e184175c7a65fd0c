"""What a stream came to: when the watch spoke, what it cost until then, what it was worth after.

Pure. Called by `lengthwise bench drift` with what run.py brought home.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lengthwise_lab.drift.run import Observation, Outcomes
from lengthwise_lab.drift.streams import Stream, StreamRequest

#: Parts of equal size whose means are printed.
WINDOWS = 12


@dataclass(frozen=True, kw_only=True)
class Change:
    """From the first request of a phase to the first look that drew the consequence."""

    requests: int  #: Accepted meanwhile.
    answers: int  #: Of requests of that phase or earlier ones, that ended meanwhile.
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PhaseReport:
    """One phase of a stream. Ratios are of mean completion times, over fcfs's."""

    good: bool
    first: int  #: Its first request.
    count: int
    ratio: float  #: Ours, all of it.
    unwatched_ratio: float  #: Short first without watch and calibration.
    change: Change | None  #: None: the queue was already as it should be, or never was.
    settled: bool  #: Whether the watch came to the right verdict in this phase.
    settled_count: int  #: Requests accepted after that, to the end of the phase.
    settled_ratio: float | None  #: Ours, of those.
    wrong_looks: int  #: Looks after that at which the verdict was wrong.
    looks: int  #: Looks in the phase.


@dataclass(frozen=True, kw_only=True)
class StreamReport:
    """One stream, served three ways."""

    stream: str
    why: str
    requests: int
    means_s: dict[str, float]
    windows: list[dict[str, float]]  #: Mean completion of each part, s, by way.
    phases: list[PhaseReport]
    raw_coverage: float | None  #: At the last look.
    coverage: float | None
    calibration_factor: float

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def report(
    stream: Stream, requests: Sequence[StreamRequest], runs: dict[str, Outcomes]
) -> StreamReport:
    """The figures of one stream.

    Args:
        stream: Which.
        requests: Those that all ways served.
        runs: `fcfs`, `ours` and `unwatched`.
    """
    n = len(requests)
    windows = [range(i * n // WINDOWS, (i + 1) * n // WINDOWS) for i in range(WINDOWS)]
    last = runs["ours"].looks[-1] if runs["ours"].looks else None
    return StreamReport(
        stream=stream.name,
        why=stream.why,
        requests=n,
        means_s={way: _mean(run, range(n)) for way, run in runs.items()},
        windows=[{way: _mean(run, part) for way, run in runs.items()} for part in windows],
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
    ours = runs["ours"]
    begun_s = requests[first].at_s
    ends_s = requests[after].at_s if after < len(requests) else float("inf")
    before = [look for look in ours.looks if look.at_s <= begun_s]
    looks = [look for look in ours.looks if begun_s < look.at_s <= ends_s]
    was = before[-1] if before else None
    change, since = None, first
    right = [look for look in looks if look.fallback is not good]
    already = (was.fallback if was else False) is not good
    if right and not already:
        change = Change(
            requests=right[0].accepted - first,
            answers=right[0].answered - (was.answered if was else 0),
            seconds=right[0].at_s - begun_s,
        )
        since = right[0].accepted
    settled = bool(right) or already
    rest = range(since, after) if settled else range(0)
    verdicts: list[Observation] = (
        [look for look in looks if look.accepted >= since] if settled else []
    )
    return PhaseReport(
        good=good,
        first=first,
        count=len(part),
        ratio=_ratio(runs["ours"], runs["fcfs"], part),
        unwatched_ratio=_ratio(runs["unwatched"], runs["fcfs"], part),
        change=change,
        settled=settled,
        settled_count=len(rest),
        settled_ratio=_ratio(runs["ours"], runs["fcfs"], rest) if len(rest) else None,
        wrong_looks=sum(look.fallback is good for look in verdicts),
        looks=len(looks),
    )


def _mean(run: Outcomes, part: Sequence[int]) -> float:
    return sum(run.completion_s[i] for i in part) / len(part)


def _ratio(one: Outcomes, other: Outcomes, part: Sequence[int]) -> float:
    return _mean(one, part) / _mean(other, part)
