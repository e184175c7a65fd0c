"""Assigns prompts to folds by hash, and keeps near-duplicate prompts in one fold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

#: Sources with rewritten copies of one problem, which must stay on one side of a split.
NEAR_DUPLICATE_SOURCES = ("castillo/DS1000",)


def fold_of(text: str, folds: int) -> int:
    """Return the fold of a text, 0 to folds - 1, from the SHA-256 of the stripped text."""
    return int(hashlib.sha256(text.strip().encode()).hexdigest(), 16) // 10 % folds


def near_duplicates(texts: Sequence[str], *, overlap: float = 0.4) -> list[str]:
    """Return for each text the smallest text that it is chained to by overlapping shingles.

    A shingle is three words.

    Args:
        texts: All pairs are compared.
        overlap: Least Jaccard index that chains two texts, 0 to 1.
    """
    shingles = []
    for text in texts:
        words = text.split()
        shingles.append({tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))})
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, one in enumerate(shingles):
        for j in range(i):
            common = len(one & shingles[j])
            if common >= overlap * (len(one) + len(shingles[j]) - common):
                parent[root(i)] = root(j)
    best: dict[int, str] = {}
    for i, text in enumerate(texts):
        r = root(i)
        best[r] = min(best.get(r, text), text)
    return [best[root(i)] for i in range(len(texts))]
