"""Folds by the hash of a prompt."""

from __future__ import annotations

import hashlib

import pytest

from lengthwise_training.data.splits import fold_of


def test_a_fold_does_not_depend_on_the_last_digit_by_which_the_test_set_was_cut() -> None:
    texts = [f"text {i}" for i in range(3000)]
    digits = [int(hashlib.sha256(t.encode()).hexdigest(), 16) % 10 for t in texts]
    kept = [fold_of(t, 5) for t, digit in zip(texts, digits, strict=True) if digit >= 2]
    shares = [kept.count(fold) / len(kept) for fold in range(5)]
    assert shares == pytest.approx([0.2] * 5, abs=0.03)
