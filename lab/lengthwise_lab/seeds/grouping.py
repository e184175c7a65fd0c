"""Static batches made by predicted length: who runs with whom, how many, and up to which cap. Pure.

The publications' ways (sorting, a table of batch sizes for each length) and ours (the sizes follow
from memory, prompts and what a step costs). Called by the replays of this package.

Sources: Zheng et al., "Response length perception and sequence scheduling", arXiv 2305.13144
(variable batch size); Zhang et al., ICDE 2025 (the second table).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Answers that run together.

    `members`: their indices. `cap`: the most tokens that any of them may have by its end.
    """

    members: tuple[int, ...]
    cap: int


@dataclass(frozen=True, kw_only=True)
class SizeTable:
    """How many answers a batch holds, by the bucket of its length.

    `cell`: width of a bucket, tokens. `sizes`: (longest bucket, batch size), ascending; beyond the
    last one `base`.
    """

    cell: int
    sizes: tuple[tuple[int, int], ...]
    base: int = 16

    def bucket(self, length: float) -> int:
        """The length, rounded up to a bucket's end, tokens."""
        return -(-int(length) // self.cell) * self.cell

    def size(self, bucket: int) -> int:
        """How many answers a batch of this bucket holds."""
        return next((size for longest, size in self.sizes if bucket <= longest), self.base)


#: Of sequence scheduling: lengths of the answer.
SEQSCH_TABLE = SizeTable(cell=50, sizes=((50, 256), (100, 128), (150, 64), (200, 32)))

#: Of the probabilistic length model: lengths of prompt and answer together.
PROBLEN_TABLE = SizeTable(cell=100, sizes=((200, 256), (400, 128), (600, 64), (800, 32)))


def in_order(count: int, *, size: int, cap: int) -> list[Batch]:
    """Batches as the answers come: no scheduling at all."""
    return [
        Batch(members=tuple(range(first, min(first + size, count))), cap=cap)
        for first in range(0, count, size)
    ]


def by_length(lengths: Sequence[float], *, size: int) -> list[Batch]:
    """Sorted by predicted length, and cut into batches; the cap is the longest prediction."""
    order = _ascending(lengths)
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    return [
        Batch(members=tuple(batch), cap=int(np.ceil(max(lengths[at] for at in batch))))
        for batch in batches
    ]


def by_table(lengths: Sequence[float], table: SizeTable) -> list[Batch]:
    """Variable batch size: short answers in large batches, each bucket cut by itself.

    What is left of a bucket, if it is less than half a batch and less than `base`, joins the next
    longer bucket that there is.
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
            found.append(Batch(members=tuple(batch), cap=end))
    return found


def by_memory(
    lengths: Sequence[float],
    prompt_tokens: Sequence[int],
    *,
    memory_tokens: int,
    step_cost: Callable[[int], float],
    batch_cost: float = 0.0,
) -> list[Batch]:
    """The cheapest cut of the sorted answers into batches that fit into memory.

    By dynamic programming over the places where a batch may end: a batch costs its cap times the
    cost of one step at its size. No constants of one LLM or one GPU.

    Args:
        lengths: Predicted, tokens of answer.
        prompt_tokens: Of each.
        memory_tokens: Tokens of prompts and answers, padding included, that fit at once.
        step_cost: Of one step, by batch size, in any unit; never falls.
        batch_cost: Of beginning one more batch, in the same unit.

    Raises:
        ValueError: One answer alone does not fit.
    """
    order = _ascending(lengths)
    count = len(order)
    prompts = np.array([prompt_tokens[at] for at in order])
    sizes = np.arange(1, count + 1)
    steps = np.array([step_cost(size) for size in range(1, count + 1)])
    best = np.zeros(count + 1)
    begins = np.zeros(count + 1, dtype=np.int64)
    for end in range(1, count + 1):
        cap = int(np.ceil(lengths[order[end - 1]]))
        # The batch of the last `size` of them, for every size.  # (end,)
        longest = np.maximum.accumulate(prompts[:end][::-1])
        fits = sizes[:end] * (longest + cap) <= memory_tokens
        if not fits[0]:
            raise ValueError(
                f"an answer of {cap} tokens after a prompt of {longest[0]} does not fit into "
                f"{memory_tokens} tokens"
            )
        costs = np.where(fits, best[:end][::-1] + cap * steps[:end] + batch_cost, np.inf)
        size = int(costs.argmin())
        best[end], begins[end] = costs[size], end - 1 - size
    found, end = [], count
    while end:
        begin = int(begins[end])
        members = tuple(order[begin:end])
        found.append(Batch(members=members, cap=int(np.ceil(lengths[members[-1]]))))
        end = begin
    return found[::-1]


def _ascending(lengths: Sequence[float]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda at: lengths[at])
