"""Streams of requests whose predictor is good, becomes bad, and recovers. Pure.

Called by `lengthwise bench drift`. Lengths are log-normal. The predictor sees a noisy length and
returns the right p10, p50 and p90 for it, so that only `rank` changes from phase to phase.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

#: Median length, tokens, and standard deviation of log lengths: about those of all models in
#: CASTILLO.
_MEDIAN_TOKENS, _SPREAD = 250.0, 0.8

#: The standard normal's 90th percentile.
_Z90 = 1.2815515655446004

#: Correlation of prediction and log length that makes a tau-b of 0.5: sin(pi/2 * tau).
GOOD = math.sin(math.pi / 4)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a stream with a predictor of one quality."""

    share: float  #: Share of the stream's requests.
    rank: float  #: Correlation of prediction and log length: `GOOD`, 0 random, -`GOOD` reversed.
    scale: float = 1.0  #: Predicted tokens for each actual token.

    @property
    def is_good(self) -> bool:
        """Whether the order of the predictions is useful."""
        return self.rank > 0


@dataclass(frozen=True, kw_only=True)
class StreamRequest:
    """One request: its arrival, its prediction, its length."""

    at_s: float
    phase: int
    p10_tokens: float
    p50_tokens: float
    p90_tokens: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A kind of stream. `why` describes it."""

    name: str
    why: str
    phases: tuple[Phase, ...]
    burst: bool = False  #: All at once, instead of Poisson arrivals.


STREAMS: dict[str, Stream] = {
    s.name: s
    for s in (
        Stream(
            name="shift",
            why="good, then traffic that the predictor was not trained on, then good again",
            phases=(
                Phase(share=0.35, rank=GOOD),
                Phase(share=0.35, rank=-0.3, scale=0.5),
                Phase(share=0.3, rank=GOOD),
            ),
        ),
        Stream(
            name="random",
            why="random at the start, then a good predictor",
            phases=(Phase(share=0.65, rank=0.0), Phase(share=0.35, rank=GOOD)),
        ),
        Stream(
            name="reversed",
            why="reversed at the start, then a good predictor",
            phases=(Phase(share=0.65, rank=-GOOD), Phase(share=0.35, rank=GOOD)),
        ),
        Stream(
            name="scaled",
            why="right order throughout, three times too long from the middle on",
            phases=(Phase(share=0.5, rank=GOOD), Phase(share=0.5, rank=GOOD, scale=3.0)),
        ),
        Stream(name="steady", why="good throughout", phases=(Phase(share=1.0, rank=GOOD),)),
        Stream(
            name="burst",
            why="good throughout, all at once: the last answers have similar lengths",
            phases=(Phase(share=1.0, rank=GOOD),),
            burst=True,
        ),
    )
}


def mean_tokens() -> float:
    """Return the mean length of an answer, tokens."""
    return _MEDIAN_TOKENS * math.exp(_SPREAD**2 / 2)


def draw(stream: Stream, count: int, *, rate_per_s: float, seed: int) -> list[StreamRequest]:
    """Draw the requests of a stream, by time of arrival.

    Args:
        stream: The kind of stream.
        count: Number of requests.
        rate_per_s: Poisson arrivals a second.
        seed: Seed of all random numbers.
    """
    rng = random.Random(seed)  # noqa: S311 - a reproducible stream, no secret
    ends = [sum(p.share for p in stream.phases[: i + 1]) for i in range(len(stream.phases))]
    requests: list[StreamRequest] = []
    at_s = 0.0
    for i in range(count):
        if not stream.burst:
            at_s += rng.expovariate(rate_per_s)
        number = next((n for n, end in enumerate(ends) if i < end * count), len(ends) - 1)
        phase = stream.phases[number]
        real, noise = rng.gauss(0, 1), rng.gauss(0, 1)
        seen = phase.rank * real + math.sqrt(1 - phase.rank**2) * noise
        # A good predictor: the more noise, the nearer its prediction is to the median.
        centre = _MEDIAN_TOKENS * math.exp(_SPREAD * GOOD * seen) * phase.scale
        half = math.exp(_Z90 * _SPREAD * math.sqrt(1 - GOOD**2))
        requests.append(
            StreamRequest(
                at_s=at_s,
                phase=number,
                p10_tokens=centre / half,
                p50_tokens=centre,
                p90_tokens=centre * half,
                tokens=max(1, round(_MEDIAN_TOKENS * math.exp(_SPREAD * real))),
            )
        )
    return requests
