"""Kernel regression of the user's lengths on a model's kernel view, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_training.adapt.view_extractor import ViewExtractor
from lengthwise_training.data.rows import LengthTable

Array = NDArray[np.float64]

#: Most prompts that the kernel is fitted on: the cost grows with their cube.
_MOST_PROMPTS = 4000

#: Added to the kernel's diagonal; the bundled kernel's own.
_RIDGE = 0.2

#: With this many rows of its own, an LLM's own fit and the fit of all LLMs weigh the same.
_HALF_OWN_ROWS = 1000


@dataclass(frozen=True)
class KernelFit:
    """Kernel regression on a model's view of prompts, for several LLMs at once.

    Attributes:
        llms: Names; in the arrays, column 0 is any other LLM, column 1 the first of these.
        points: float64, (support, columns of the view).
        weights: float64, (support, 1 + llms).
        base: float64, (1 + llms,), log(1 + tokens).
        left_out: float64, (rows, 2): predictions for rows of the support by a fit without their own
            prompt, as their LLM and as any other, log(1 + tokens).
        rows: int64, (rows,), which rows of the training table these are.
    """

    llms: list[str]
    points: Array
    weights: Array
    base: Array
    left_out: Array
    rows: NDArray[np.int64]

    def log_tokens(self, views: Array) -> Array:
        """Predict log(1 + tokens), float64, (prompts, 1 + llms)."""
        return self.base + similarity(views, self.points) @ self.weights

    def column(self, llm: str) -> int:
        """Return the column of an LLM."""
        return self.llms.index(llm) + 1 if llm in self.llms else 0


def fit_kernel(extractor: ViewExtractor, train: LengthTable, *, seed: int = 0) -> KernelFit:
    """Fit on `train`, in closed form.

    The lengths of all LLMs together show which prompts get long answers; an LLM's own lengths show
    how it differs. The more rows an LLM has, the more its own count.
    """
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(len(train.prompts))[:_MOST_PROMPTS])
    place = np.full(len(train.prompts), -1)
    place[kept] = np.arange(len(kept))
    points = extractor.views([train.prompts[i] for i in kept])
    kernel = similarity(points, points)
    at = place[train.prompt_index]
    rows, at = np.flatnonzero(at >= 0), at[at >= 0]
    llms, target = train.llms[rows], train.log_mean()[rows]
    names = [str(m) for m in np.unique(llms)]
    level = {m: float(target[llms == m].mean()) for m in names}
    deviation = target - np.array([level[m] for m in llms])
    count = np.bincount(at, minlength=len(kept))
    mean = np.bincount(at, weights=deviation, minlength=len(kept)) / count
    # A prompt that many LLMs answered is less noisy: its ridge is smaller.
    together, without = _solve(kernel + np.diag(_RIDGE / np.sqrt(count)), mean)
    weights = np.repeat(together[:, None], 1 + len(names), axis=1)
    base = np.array([np.mean(list(level.values())), *level.values()])
    left_out = np.stack([np.zeros(len(rows)), base[0] + without[at]], axis=1)
    for column, llm in enumerate(names, 1):
        of_llm = np.flatnonzero(llms == llm)
        own = at[of_llm]
        gram = kernel[np.ix_(own, own)] + _RIDGE * np.eye(len(own))
        alone, alone_without = _solve(gram, deviation[of_llm])
        share = own_share(len(own)) if len(names) > 1 else 1.0
        weights[:, column] *= 1.0 - share
        weights[own, column] += share * alone
        mixed = share * alone_without + (1.0 - share) * without[own]
        left_out[of_llm, 0] = base[column] + mixed
    return KernelFit(names, points, weights, base, left_out, rows)


def _solve(gram: Array, target: Array) -> tuple[Array, Array]:
    """Return the weights, and the prediction for each row if it were left out."""
    inverse = np.linalg.inv(gram)
    weights = inverse @ target
    return weights, target - weights / np.diag(inverse)


def own_share(rows: int) -> float:
    """Return the weight of an LLM's own fit beside that of all LLMs, 0 to 1."""
    return rows / (rows + _HALF_OWN_ROWS)


def similarity(a: Array, b: Array) -> Array:
    """Compute the Matern 3/2 kernel: (rows of a, rows of b), 0 to 1.

    The same as `bundled.kernel.similarity`, which needs PyTorch.
    """
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    distance = np.sqrt(3.0 * np.maximum(squares, 0.0) + 1e-9)
    return np.asarray((1.0 + distance) * np.exp(-distance))
