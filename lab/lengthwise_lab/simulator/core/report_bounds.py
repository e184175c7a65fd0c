"""The bounds that every report of the lab uses: length buckets, and what counts as a long wait."""

from __future__ import annotations

from collections.abc import Sequence

#: Upper bounds of the length buckets, output tokens, inclusive: short, medium, long. One bucket
#: more holds what is longer than the last bound.
BUCKET_EDGES = (64, 256, 1024)

#: A wait is long above so many times what the request takes alone, and above so many seconds. Both
#: are SSJF's own bounds, so that a report shows whether it keeps its promise.
STARVED_TIMES, STARVED_S = 10.0, 100.0


def bucket_names(edges: Sequence[int]) -> tuple[str, ...]:
    """Name each bucket by its range of output tokens, such as `65-256` and `1025+`."""
    lows = [1, *(int(edge) + 1 for edge in edges)]
    bounded = [f"{low}-{edge}" for low, edge in zip(lows, edges, strict=False)]
    return (*bounded, f"{lows[-1]}+")
