"""How alike two requests are: the kernel of the learner, and its linear system.

A Matern 3/2 kernel of two distances (the predictor's kernel view and its encoder's state) and
products of the numbers that lengths are linear in. docs/decisions/0080-learning-in-service.md says
where the weights come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_learning.view import View

Array = NDArray[np.float32]

#: Weights of the distances and of the words.
KERNEL, STATE, WORDS = 0.6, 0.8, 0.4

#: Weights between two jobs of one application: of being so, and of their distance.
SAME_APPLICATION, KERNEL_IN_APPLICATION = 1.0, 0.5

#: Between jobs of two LLMs everything counts this much.
OTHER_LLM = 0.6

#: Roots of the weights of the linear parts; `s` is centred at the usual log length.
_CONSTANT, _LENGTH, _COUNTS, _SPREAD, _DIFF = 3.0, 0.5, 0.5**0.5, 0.5, 0.5
_USUAL = 5.5

#: Rows of a block of the triangular solution.
_BLOCK = 128


@dataclass(frozen=True, eq=False)
class Points:
    """What the kernel reads of some views; float32, a row for each view.

    Attributes:
        kernel: The predictor's kernel view.
        state: The encoder's state.
        linear: Numbers whose products count.
    """

    kernel: Array
    state: Array
    linear: Array

    @classmethod
    def of(cls, views: Sequence[View]) -> Points:
        """Lay out some views, at least one, all of one basis."""
        ends = np.cumsum(views[0].widths)
        s, spread, diff, counts, kernel, state = np.split(
            np.stack([v.vector for v in views]), ends[:-1], axis=1
        )
        linear = [np.full_like(s, _CONSTANT), _LENGTH * (s - _USUAL), _COUNTS * counts]
        linear += [_SPREAD * spread, _DIFF * diff]
        return cls(
            np.ascontiguousarray(kernel),
            np.ascontiguousarray(state),
            np.concatenate(linear, axis=1, dtype=np.float32),
        )


def matern(a: Array, b: Array, b_squares: Array) -> Array:
    """Compute the Matern 3/2 kernel of the distance d: (1 + d') exp(-d'), d' = sqrt(3) d.

    Args:
        a: float32, (rows, columns).
        b: float32, (others, columns).
        b_squares: float32, (others,), the squared lengths of `b`.

    Returns:
        float32, (rows, others), 0 to 1.
    """
    squares = (a @ b.T) * np.float32(-2.0)
    squares += squared_lengths(a)[:, None]
    squares += b_squares
    np.maximum(squares, 0.0, out=squares)
    squares *= np.float32(3.0)
    distance = np.sqrt(squares, out=squares)
    out: Array = np.exp(-distance)
    distance += np.float32(1.0)
    out *= distance
    return out


def squared_lengths(points: Array) -> Array:
    """Return the squared length of each row, float32, (rows,)."""
    squares: Array = np.einsum("ij,ij->i", points, points)
    return squares


def gram(
    points: Points,
    words: Array,
    applications: NDArray[np.int64],
    llms: NDArray[np.int64],
) -> Array:
    """Compute the kernel of all pairs, float32, (rows, rows).

    Args:
        points: Of the views.
        words: float32, (rows, rows), the products of their words.
        applications: int64, (rows,), numbers of applications; -1: unknown.
        llms: int64, (rows,), numbers of LLMs.
    """
    near = matern(points.kernel, points.kernel, squared_lengths(points.kernel))
    out = near * np.float32(KERNEL)
    out += matern(points.state, points.state, squared_lengths(points.state)) * np.float32(STATE)
    out += points.linear @ points.linear.T
    out += words * np.float32(WORDS)
    same = (applications[:, None] == applications) & (applications >= 0)
    near *= np.float32(KERNEL_IN_APPLICATION)
    near += np.float32(SAME_APPLICATION)
    out += near * same
    if llms.min() != llms.max():
        out *= np.where(llms[:, None] == llms, np.float32(1.0), np.float32(OTHER_LLM))
    return out


class Factor:
    """A Cholesky factor of a matrix, to solve for several right sides."""

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        """`matrix`: symmetric, positive definite."""
        self._lower = np.linalg.cholesky(matrix)
        starts = range(0, len(matrix), _BLOCK)
        self._blocks = [slice(i, min(i + _BLOCK, len(matrix))) for i in starts]
        self._inverses = [np.linalg.inv(self._lower[b, b]) for b in self._blocks]

    def solve(self, target: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return x with `matrix @ x = target`."""
        x = np.array(target, dtype=self._lower.dtype)
        for block, inverse in zip(self._blocks, self._inverses, strict=True):
            x[block] = inverse @ (x[block] - self._lower[block, : block.start] @ x[: block.start])
        for block, inverse in zip(self._blocks[::-1], self._inverses[::-1], strict=True):
            rest = x[block] - self._lower[block.stop :, block].T @ x[block.stop :]
            x[block] = inverse.T @ rest
        return x
