"""Bags of words of many views at once: their weights, their products, and a ridge on them.

A word is a bucket of a view: a token or a pair of tokens. Written in numpy, because the queue
service needs no sparse matrices for anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_contract.request_view import BUCKETS
from lengthwise_learning.view import View

Array = NDArray[np.float32]
Index = NDArray[np.int64]

#: A word in more views than this is multiplied as a dense column, the others pair by pair.
_RARE = 24

#: Steps of the ridge's solution; more changed no prediction by 0.01.
_STEPS = 12


@dataclass(frozen=True, eq=False)
class Bags:
    """The distinct words of some views and how often each has them.

    Attributes:
        row: int64, (entries,), which view; ascending.
        word: int64, (entries,).
        weight: float32, (entries,), 1 + log of the count.
        count: Number of views.
    """

    row: Index
    word: Index
    weight: Array
    count: int

    @classmethod
    def of(cls, views: Sequence[View]) -> Bags:
        """Count the words of some views."""
        sizes = np.array([len(v.words) for v in views], dtype=np.int64)
        row = np.repeat(np.arange(len(views)), sizes)
        every = np.concatenate([v.words for v in views]) if len(views) else np.zeros(0, np.uint16)
        both, times = _distinct(row * BUCKETS + every.astype(np.int64))
        weight = (1.0 + np.log(times)).astype(np.float32)
        return cls(both // BUCKETS, both % BUCKETS, weight, len(views))

    def idf(self) -> Array:
        """Return the weight of every word, float32, (BUCKETS,); 0 in fewer than two views."""
        views = np.bincount(self.word, minlength=BUCKETS)
        known = np.log((1.0 + self.count) / (1.0 + views))
        return np.where(views >= 2, known, 0.0).astype(np.float32)

    def scaled(self, idf: Array) -> Bags:
        """Weigh words by `idf`, drop those of weight 0, and give each view the length 1."""
        weight = self.weight * idf[self.word]
        kept = np.flatnonzero(weight)
        row, word, weight = self.row[kept], self.word[kept], weight[kept]
        squares = np.bincount(row, weights=weight.astype(np.float64) ** 2, minlength=self.count)
        length = np.sqrt(np.maximum(squares, 1e-12))
        return Bags(row, word, (weight / length[row]).astype(np.float32), self.count)

    def gram(self) -> Array:
        """Return the products of all pairs of views, float32, (count, count)."""
        views = np.bincount(self.word, minlength=BUCKETS)
        common = np.flatnonzero(views > _RARE)
        column = np.full(BUCKETS, -1)
        column[common] = np.arange(len(common))
        at = column[self.word]
        dense = np.zeros((self.count, len(common)), dtype=np.float32)
        often = at >= 0
        dense[self.row[often], at[often]] = self.weight[often]
        out = dense @ dense.T
        rare = np.flatnonzero(~often)
        rare = rare[np.argsort(self.word[rare], kind="stable")]
        word, row, weight = self.word[rare], self.row[rare], self.weight[rare]
        places, products = [], []
        for apart in range(_RARE):  # the views of one word stand side by side
            one = np.flatnonzero(word[apart:] == word[: len(word) - apart])
            if len(one) == 0:
                break
            other = one + apart
            product = weight[one] * weight[other]
            places.append(row[one] * self.count + row[other])
            products.append(product)
            if apart:
                places.append(row[other] * self.count + row[one])
                products.append(product)
        if places:
            at, weights = np.concatenate(places), np.concatenate(products)
            added = np.bincount(at, weights=weights, minlength=self.count**2)
            out += added.reshape(out.shape).astype(np.float32)
        return out

    def rows(self, start: int, stop: int) -> Bags:
        """Return some of the views: those from `start` to before `stop`."""
        first, last = np.searchsorted(self.row, [start, stop])
        kept = slice(int(first), int(last))
        return Bags(self.row[kept] - start, self.word[kept], self.weight[kept], stop - start)

    def times(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each view's sum of a table's rows, (count,); `table`: (BUCKETS,)."""
        terms = self.weight * table[self.word]
        return np.bincount(self.row, weights=terms, minlength=self.count).astype(np.float64)

    def sums(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each word's sum over views, float64, (BUCKETS,); `numbers`: (count,)."""
        terms = self.weight * numbers[self.row]
        return np.bincount(self.word, weights=terms, minlength=BUCKETS).astype(np.float64)


def ridge(bags: Bags, target: NDArray[np.float64], *, alpha: float) -> NDArray[np.float64]:
    """Fit a number for each word by ridge regression, float64, (BUCKETS,).

    Args:
        bags: Scaled.
        target: float64, (count,).
        alpha: Weight of the squares of the numbers.

    Source: conjugate gradients on the normal equations (Hestenes and Stiefel 1952).
    """
    table = np.zeros(BUCKETS)
    rest = bags.sums(target)
    direction = rest.copy()
    size = float(rest @ rest)
    for _ in range(_STEPS):
        if size < 1e-12:
            break
        turned = bags.sums(bags.times(direction)) + alpha * direction
        step = size / float(direction @ turned)
        table += step * direction
        rest -= step * turned
        before, size = size, float(rest @ rest)
        direction = rest + (size / before) * direction
    return table


def bag_of(view: View, idf: Array) -> tuple[Index, Array]:
    """Return the words of one view and their weights, of length 1 together."""
    word, times = _distinct(view.words.astype(np.int64))
    weight = (1.0 + np.log(times)).astype(np.float32) * idf[word]
    length = float(np.sqrt(weight @ weight))
    return word, weight / length if length > 1e-6 else weight


def _distinct(ordered: Index) -> tuple[Index, Index]:
    """Return the distinct values of an ascending array and how often each stands in it."""
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    return ordered[starts], np.diff(starts, append=len(ordered))
