"""Binary insertion of several lists at once."""

from __future__ import annotations

import numpy as np

from lengthwise_training.fitting.insertion import insertion_orders


def test_insertion_sorts_several_lists_with_few_calls_and_comparisons() -> None:
    rng = np.random.default_rng(0)
    lists = [rng.permutation(1000)[:n].tolist() for n in (50, 1, 33)]
    calls = 0

    def longer(comparisons: list[tuple[int, int, int]]) -> list[bool]:
        nonlocal calls
        calls += 1
        return [lists[g][item] > lists[g][other] for g, item, other in comparisons]

    orders, comparisons = insertion_orders([len(one) for one in lists], longer)
    for one, order in zip(lists, orders, strict=True):
        assert [one[i] for i in order] == sorted(one)
    assert comparisons <= sum(np.ceil(np.log2(i + 1)) for n in (50, 33) for i in range(n))
    assert calls < comparisons  # one call compares a pair of each list
    assert insertion_orders([], longer) == ([], 0)
