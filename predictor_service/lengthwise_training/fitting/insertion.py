"""Orders lists by pairwise comparisons: binary insertion. Called by `pair_trainer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def insertion_orders(
    sizes: Sequence[int], longer: Callable[[list[tuple[int, int, int]]], Sequence[bool]]
) -> tuple[list[list[int]], int]:
    """Sort several lists at once, so that one call compares a pair of each list.

    Args:
        sizes: Items of each list.
        longer: Of each (list, item, other): whether the item belongs behind the other.

    Returns:
        Each list's items in order, the shortest first; and the number of comparisons.
    """
    orders: list[list[int]] = [[] for _ in sizes]
    comparisons = 0
    for item in range(max(sizes, default=0)):
        bounds = {g: (0, len(orders[g])) for g, size in enumerate(sizes) if item < size}
        while open_lists := [g for g, (low, high) in bounds.items() if low < high]:
            middles = {g: sum(bounds[g]) // 2 for g in open_lists}
            results = longer([(g, item, orders[g][middles[g]]) for g in open_lists])
            comparisons += len(open_lists)
            for g, behind in zip(open_lists, results, strict=True):
                low, high = bounds[g]
                bounds[g] = (middles[g] + 1, high) if behind else (low, middles[g])
        for g, (low, _) in bounds.items():
            orders[g].insert(low, item)
    return orders, comparisons
