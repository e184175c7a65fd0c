"""Group prompts into static batches by predicted length: members, sizes and caps. Pure.

The publications' ways: sorting, and a table of batch sizes for each length. Our way, by memory, is
the worker's `sequence_scheduling`. Called by the replays of this package.

Sources: Zheng et al., "Response length perception and sequence scheduling", arXiv 2305.13144
(variable batch size); Zhang et al., ICDE 2025 (the second table).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lengthwise_worker.engines.transformers.sequence_scheduling import PlannedBatch


@dataclass(frozen=True, kw_only=True)
class SizeTable:
    """The size of a batch, by the bucket of its length.

    `cell`: width of a bucket, tokens. `sizes`: (longest bucket, batch size), ascending; beyond the
    last one `base`.
    """

    cell: int
    sizes: tuple[tuple[int, int], ...]
    base: int = 16

    def bucket(self, length: float) -> int:
        """Round a length up to the end of its bucket, tokens."""
        return -(-int(length) // self.cell) * self.cell

    def size(self, bucket: int) -> int:
        """Return the size of a batch of this bucket."""
        return next((size for longest, size in self.sizes if bucket <= longest), self.base)


#: Sequence scheduling's table: lengths of the answer.
SEQSCH_TABLE = SizeTable(cell=50, sizes=((50, 256), (100, 128), (150, 64), (200, 32)))

#: The probabilistic length model's table: lengths of prompt and answer together.
PROBLEN_TABLE = SizeTable(cell=100, sizes=((200, 256), (400, 128), (600, 64), (800, 32)))


def in_order(count: int, *, size: int, cap: int) -> list[PlannedBatch]:
    """Batch answers in their order: no scheduling at all."""
    return [
        PlannedBatch(members=tuple(range(first, min(first + size, count))), cap=cap)
        for first in range(0, count, size)
    ]


def by_length(lengths: Sequence[float], *, size: int) -> list[PlannedBatch]:
    """Sort by predicted length and cut into batches; the cap is the longest prediction."""
    order = _ascending(lengths)
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    return [
        PlannedBatch(members=tuple(batch), cap=math.ceil(max(lengths[at] for at in batch)))
        for batch in batches
    ]


def by_table(lengths: Sequence[float], table: SizeTable) -> list[PlannedBatch]:
    """Batch each bucket separately, short answers in large batches (variable batch size).

    The rest of a bucket joins the next longer bucket, if it is smaller than half a batch or than
    `base`, whichever is larger.
    """
    buckets: dict[int, list[int]] = {}
    for at in _ascending(lengths):
        buckets.setdefault(table.bucket(lengths[at]), []).append(at)
    longest = max(lengths)
    ends = sorted(buckets)
    found = []
    for place, end in enumerate(ends):
        members, size = buckets[end], table.size(end)
        for first in range(0, len(members), size):
            batch = members[first : first + size]
            if end < longest and len(batch) < max(size // 2, table.base):
                buckets[ends[place + 1]].extend(batch)
                break
            found.append(PlannedBatch(members=tuple(batch), cap=end))
    return found


def _ascending(lengths: Sequence[float]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda at: lengths[at])
