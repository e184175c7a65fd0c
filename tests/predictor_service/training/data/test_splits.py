"""Folds by hash, and near-duplicates."""

from __future__ import annotations

from lengthwise_training.data.splits import fold_of


def test_a_fold_does_not_depend_on_the_last_digit_by_which_the_test_set_was_cut() -> None:
    import hashlib

    texts = [f"text {i}" for i in range(3000)]
    digits = [int(hashlib.sha256(t.encode()).hexdigest(), 16) % 10 for t in texts]
    kept = [fold_of(t, 5) for t, digit in zip(texts, digits, strict=True) if digit >= 2]
    share = kept.count(0) / len(kept)
    assert 0.17 < share < 0.23
