"""Measure what the path through the queue adds to the time to the first token, on an idle system.

Called by `lengthwise bench serve --engine-url` and by the demo.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from lengthwise_lab.errors import ServiceError
from lengthwise_lab.loadtest.driver import LoadTarget, send
from lengthwise_lab.loadtest.measures import Sample, quantile
from lengthwise_lab.loadtest.workload import Bodies, TimedRequest

#: Pairs that are sent first and not counted: they open connections and fill caches.
WARM_UP_PAIRS = 3


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Times to the first token of the same requests on both paths, ms. One request at a time."""

    pairs: int
    engine_p50_ms: float
    engine_p90_ms: float
    path_p50_ms: float
    path_p90_ms: float

    @property
    def added_p50_ms(self) -> float:
        """The difference of the medians, ms."""
        return self.path_p50_ms - self.engine_p50_ms


async def measure_overhead(
    path: LoadTarget,
    engine: LoadTarget,
    bodies: Bodies,
    *,
    pairs: int,
    on_pair: Callable[[], None],
) -> Overhead:
    """Send `pairs` requests on both paths, alternating which path is first.

    Each request's text starts with a number of its own, so that no engine answers the second of a
    pair from its prefix cache. Both paths get the same lengths.

    Raises:
        ServiceError: A request failed.
    """
    ttft_ms: dict[str, list[float]] = {"path": [], "engine": []}
    async with path.client() as path_http, engine.client() as engine_http:
        ways = {"path": (path_http, path.model), "engine": (engine_http, engine.model)}
        for pair in range(WARM_UP_PAIRS + pairs):
            names = ["path", "engine"] if pair % 2 else ["engine", "path"]
            for turn, name in enumerate(names):
                request = _request(bodies, pair, number=2 * pair + turn)
                http, model = ways[name]
                sample = await send(http, model, request, due_s=time.monotonic())
                if pair >= WARM_UP_PAIRS:
                    ttft_ms[name].append(_ttft_ms(name, sample))
            on_pair()
    return Overhead(
        pairs=pairs,
        engine_p50_ms=quantile(ttft_ms["engine"], 0.5),
        engine_p90_ms=quantile(ttft_ms["engine"], 0.9),
        path_p50_ms=quantile(ttft_ms["path"], 0.5),
        path_p90_ms=quantile(ttft_ms["path"], 0.9),
    )


def _request(bodies: Bodies, pair: int, *, number: int) -> TimedRequest:
    kind, body = bodies[pair % len(bodies)]
    *before, last = body["messages"]
    numbered = {**last, "content": f"{100_000 + number}: {last['content']}"}
    short = {**body, "messages": [*before, numbered], "max_tokens": 4}
    return replace(TimedRequest(index=pair, body=short), kind=kind)


def _ttft_ms(way: str, sample: Sample) -> float:
    if sample.ttft_s is None:
        raise ServiceError(f"no first token from the {way}: {sample.error or 'an empty answer'}")
    return 1000 * sample.ttft_s
