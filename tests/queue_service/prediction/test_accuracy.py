"""The accuracy of an order, compared with a count of every pair."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_queue.prediction.accuracy import MIN_PAIRS, pair_accuracy

LENGTHS = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(1, 9).map(float)), st.integers(1, 9)), max_size=40
)


@given(LENGTHS)
def test_the_accuracy_is_the_share_of_all_pairs(
    lengths: list[tuple[float | None, int]],
) -> None:
    known = [(p, a) for p, a in lengths if p is not None]
    pairs = [(x, y) for x, y in combinations(known, 2) if x[1] != y[1]]
    right = sum(0.5 if x[0] == y[0] else (x[0] < y[0]) == (x[1] < y[1]) for x, y in pairs)
    got = pair_accuracy(lengths)
    if len(pairs) < MIN_PAIRS:
        assert got is None
    else:
        assert got == pytest.approx(right / len(pairs))


@pytest.mark.parametrize(
    ("predicted", "want"),
    [(lambda n: n, 1.0), (lambda n: -n, 0.0), (lambda n: 7, 0.5)],
    ids=["always-right", "always-wrong", "always-the-same"],
)
def test_the_ends_of_the_scale_are_1_and_0_and_its_middle_is_a_coin(
    predicted: object, want: float
) -> None:
    assert callable(predicted)
    assert pair_accuracy([(float(predicted(n)), n) for n in range(1, 30)]) == want
