"""Kernel regression of the user's lengths on a model's kernel view, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_training.adapt.view_extractor import ViewExtractor
from lengthwise_training.data.rows import LengthTable

Array = NDArray[np.float64]

#: Prompts that the kernel is fitted on, at most: the solution costs their cube.
_MOST_PROMPTS = 4000

#: Added to the kernel's diagonal; the bundled kernel's own.
_RIDGE = 0.2

#: With this many rows an LLM's own count half, beside those of all LLMs together.
_HALF_OWN_ROWS = 1000


@dataclass(frozen=True)
class KernelFit:
    """Kernel regression on a model's view of prompts, for several LLMs at once.

    Attributes:
        llms: Names; column 0 of what follows is any other LLM, column 1 the first of these.
        points: float64, (support, columns of the view).
        weights: float64, (support, 1 + llms).
        base: float64, (1 + llms,), log(1 + tokens).
        left_out: float64, (rows, 2): what rows of the support would have been predicted had their
            own prompt not been there, as their LLM and as any other, log(1 + tokens).
        rows: int64, (rows,), which rows of the training table these are.
    """

    llms: list[str]
    points: Array
    weights: Array
    base: Array
    left_out: Array
    rows: NDArray[np.int64]

    def log_tokens(self, views: Array) -> Array:
        """log(1 + tokens), float64, (prompts, 1 + llms)."""
        return self.base + similarity(views, self.points) @ self.weights

    def column(self, llm: str) -> int:
        """Which column answers for an LLM."""
        return self.llms.index(llm) + 1 if llm in self.llms else 0


def fit_kernel(viewer: ViewExtractor, train: LengthTable, *, seed: int = 0) -> KernelFit:
    """Fit on `train`, in closed form.

    Lengths of all LLMs together say how long prompts are; an LLM's own say how it differs. The
    more rows of its own an LLM has, the more these count.
    """
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(len(train.prompts))[:_MOST_PROMPTS])
    place = np.full(len(train.prompts), -1)
    place[kept] = np.arange(len(kept))
    points = viewer.views([train.prompts[i] for i in kept])
    kernel = similarity(points, points)
    at = place[train.prompt_index]
    rows, at = np.flatnonzero(at >= 0), at[at >= 0]
    llms, target = train.llms[rows], train.log_mean()[rows]
    names = [str(m) for m in np.unique(llms)]
    level = {m: float(target[llms == m].mean()) for m in names}
    away = target - np.array([level[m] for m in llms])
    count = np.bincount(at, minlength=len(kept))
    mean = np.bincount(at, weights=away, minlength=len(kept)) / count
    # A prompt that many LLMs answered is known better: its share of the ridge shrinks.
    together, without = _solve(kernel + np.diag(_RIDGE / np.sqrt(count)), mean)
    weights = np.repeat(together[:, None], 1 + len(names), axis=1)
    base = np.array([np.mean(list(level.values())), *level.values()])
    left_out = np.stack([np.zeros(len(rows)), base[0] + without[at]], axis=1)
    for column, llm in enumerate(names, 1):
        mine = np.flatnonzero(llms == llm)
        own = at[mine]
        gram = kernel[np.ix_(own, own)] + _RIDGE * np.eye(len(own))
        alone, alone_without = _solve(gram, away[mine])
        share = own_share(len(own)) if len(names) > 1 else 1.0
        weights[:, column] *= 1.0 - share
        weights[own, column] += share * alone
        said = share * alone_without + (1.0 - share) * without[own]
        left_out[mine, 0] = base[column] + said
    return KernelFit(names, points, weights, base, left_out, rows)


def _solve(gram: Array, target: Array) -> tuple[Array, Array]:
    """The weights, and what each row would be said to be if it were left out."""
    inverse = np.linalg.inv(gram)
    weights = inverse @ target
    return weights, target - weights / np.diag(inverse)


def own_share(rows: int) -> float:
    """How much an LLM's own rows count beside those of all LLMs together, 0 to 1."""
    return rows / (rows + _HALF_OWN_ROWS)


def similarity(a: Array, b: Array) -> Array:
    """The Matern 3/2 kernel, as `kernel.similarity`: (rows of a, rows of b), 0 to 1."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    distance = np.sqrt(3.0 * np.maximum(squares, 0.0) + 1e-9)
    return np.asarray((1.0 + distance) * np.exp(-distance))
