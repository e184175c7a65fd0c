"""The bag-of-words baseline: TF-IDF with a ridge regression and boosted trees."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lengthwise_training.data.rows import LengthTable
from lengthwise_training.scoring.cheap_features import feature_matrix
from lengthwise_training.scoring.scores import PredictedLengths

Array = NDArray[np.float64]

#: An LLM with fewer rows than this gets no bag of words of its own.
LEAST_TRAINING_ROWS = 50

#: Most rows of the fit for all LLMs, to bound its time. With 20,000 of 46,700 rows it had a tau-b
#: of 0.35 instead of 0.39 on LLMs and prompts of another kind, because it lost prompts that only
#: one author answered.
_MOST_ROWS_POOLED = 100_000


_SINGULAR_VECTORS = 64

#: Most LLMs that the trees distinguish, those with the most rows; trees allow 255 categories.
_MOST_CATEGORIES = 250

#: Most LLMs whose predictions are averaged for an unknown LLM.
_MOST_AVERAGED = 32


class BagOfWords:
    """TF-IDF of words and word pairs with cheap counts; the mean of a ridge and boosted trees.

    Each LLM with enough rows has a fit of its own; a fit for all LLMs serves those with few rows or
    none. Which is better depends: with 430 prompts per LLM the fit for all had a tau-b of 0.457 and
    the own fits 0.361 (CASTILLO/Alpaca); with 3,400 prompts the own fits lead. The target is the
    mean log length.
    """

    def __init__(
        self, train: LengthTable, *, llms: Collection[str] | None = None, seed: int = 0
    ) -> None:
        """Fit the baseline.

        Args:
            train: The rows to learn from.
            llms: The LLMs that will be predicted; others get no fit of their own. None: all.
            seed: Of everything random.
        """
        self._vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), min_df=2, max_features=100_000, sublinear_tf=True
        )
        words = _fit_words(self._vectorizer, train.prompts)
        cheap = feature_matrix(train.prompts)
        self._scaler = StandardScaler().fit(cheap)
        cheap = self._scaler.transform(cheap)
        kept = min(_SINGULAR_VECTORS, *(n - 1 for n in words.shape))
        self._svd = TruncatedSVD(n_components=max(kept, 1), random_state=seed).fit(words)
        wide, dense = self._views(words, cheap)
        target = train.log_mean()
        counts = {str(m): int((train.llms == m).sum()) for m in np.unique(train.llms)}
        self._own: dict[str, _RidgeAndTrees] = {}
        self._rows = counts
        for llm, count in counts.items():
            if count >= LEAST_TRAINING_ROWS and (llms is None or llm in llms):
                of_llm = train.llms == llm
                at = train.prompt_index[of_llm]
                self._own[llm] = _RidgeAndTrees(wide[at], dense[at], target[of_llm], seed)
        # Each LLM's mean is subtracted, so the fit for all learns from differences of prompts.
        self._level = {m: float(target[train.llms == m].mean()) for m in counts}
        self._any_level = float(np.mean(list(self._level.values())))
        self._pooled: _OneForAll | None = None
        if len(counts) > 1 or not self._own:
            rng = np.random.default_rng(seed)
            some = rng.permutation(len(train))[:_MOST_ROWS_POOLED]
            at = train.prompt_index[some]
            deviation = target[some] - np.array([self._level[m] for m in train.llms[some]])
            self._pooled = _OneForAll(wide[at], dense[at], train.llms[some], deviation, seed)

    @property
    def own(self) -> Collection[str]:
        """The LLMs that have a fit of their own."""
        return self._own.keys()

    def predict(self, table: LengthTable) -> PredictedLengths:
        """Predict each row by its LLM's own fit, if it has one."""
        return self._predicted(table, lambda llm: 1.0)

    def predict_together(self, table: LengthTable) -> PredictedLengths:
        """Predict each row by the fit for all LLMs, if there is more than one."""
        return self._predicted(table, lambda llm: 0.0)

    def log_tokens(self, table: LengthTable, own_share: Callable[[int], float]) -> Array:
        """Mix both fits, in log(1 + tokens), float64, (rows,).

        Args:
            table: The rows to predict.
            own_share: From an LLM's training rows to the weight of its own fit, 0 to 1.
        """
        words = self._vectorizer.transform(table.prompts)
        wide, dense = self._views(words, self._scaler.transform(feature_matrix(table.prompts)))
        together = None if self._pooled is None else self._pooled.of(wide, dense)
        out = np.zeros(len(table))
        for llm in np.unique(table.llms):
            of_llm = table.llms == llm
            at = table.prompt_index[of_llm]
            own = self._own.get(str(llm))
            share = 0.0 if own is None else own_share(self._rows[str(llm)])
            if self._pooled is None:  # training had one LLM, perhaps not this one
                own, share = next(iter(self._own.values())), 1.0
            if share > 0.0 and own is not None:
                out[of_llm] += share * own.predict(wide[at], dense[at])
            if share < 1.0 and together is not None:
                level = self._level.get(str(llm), self._any_level)
                out[of_llm] += (1.0 - share) * (together.predict(str(llm), at) + level)
        return out

    def _predicted(self, table: LengthTable, own_share: Callable[[int], float]) -> PredictedLengths:
        return PredictedLengths(np.maximum(np.expm1(self.log_tokens(table, own_share)), 1.0))

    def _views(self, words: sparse.csr_matrix, cheap: Array) -> tuple[sparse.csr_matrix, Array]:
        wide = sparse.hstack([words, sparse.csr_matrix(cheap)]).tocsr()
        return wide, np.hstack([cheap, self._svd.transform(words)])


def _fit_words(vectorizer: TfidfVectorizer, prompts: Sequence[str]) -> sparse.csr_matrix:
    try:
        return vectorizer.fit_transform(prompts)
    except ValueError as exc:  # no word occurs in two of so few prompts
        vectorizer.min_df = 1
        try:
            return vectorizer.fit_transform(prompts)
        except ValueError:
            raise ValueError("the training prompts hold no words to learn from") from exc


class _RidgeAndTrees:
    """The mean of a ridge and boosted trees."""

    def __init__(self, wide: sparse.csr_matrix, dense: Array, target: Array, seed: int) -> None:
        self._ridge = Ridge(alpha=1.0, solver="sparse_cg").fit(wide, target)
        self._trees = _Trees(dense, target, seed)

    def predict(self, wide: sparse.csr_matrix, dense: Array) -> Array:
        mean: Array = 0.5 * (self._ridge.predict(wide) + self._trees.predict(dense))
        return mean


class _OneForAll:
    """The mean of a ridge that does not distinguish LLMs and of trees that do, by a category.

    Without the category the trees could not learn that what is long for one LLM is short for
    another: with people and GPT-3 among the authors, tau-b of 13 LLMs was 0.435 on CASTILLO's five
    sources, and 0.501 with it. An unknown LLM is predicted as the mean of the known ones.
    """

    def __init__(
        self,
        wide: sparse.csr_matrix,
        dense: Array,
        llms: NDArray[np.str_],
        target: Array,
        seed: int,
    ) -> None:
        names, counts = np.unique(llms, return_counts=True)
        kept = names[np.argsort(-counts, kind="stable")][:_MOST_CATEGORIES]
        self.codes = {str(name): float(code) for code, name in enumerate(kept)}
        column = np.array([[self.codes.get(str(m), np.nan)] for m in llms])
        self.ridge = Ridge(alpha=1.0, solver="sparse_cg").fit(wide, target)
        self.trees = _Trees(np.hstack([column, dense]), target, seed, categories=[0])

    def of(self, wide: sparse.csr_matrix, dense: Array) -> _OneForAllOf:
        return _OneForAllOf(self, wide, dense)


class _OneForAllOf:
    """The fit for all LLMs on some prompts: what does not depend on the LLM is computed once."""

    def __init__(self, fit: _OneForAll, wide: sparse.csr_matrix, dense: Array) -> None:
        self._fit, self._wide, self._dense = fit, wide, dense

    def predict(self, llm: str, at: NDArray[np.int64]) -> Array:
        """Predict rows of one LLM, float64, (rows,); `at`: int64, (rows,), which prompts."""
        code = self._fit.codes.get(llm)
        trees = self._of_any[at] if code is None else self._trees(code, at)
        return np.asarray(0.5 * (self._ridge[at] + trees))

    @cached_property
    def _ridge(self) -> Array:
        return np.asarray(self._fit.ridge.predict(self._wide))

    @cached_property
    def _of_any(self) -> Array:
        every = np.arange(len(self._dense))
        codes = list(self._fit.codes.values())[:_MOST_AVERAGED]
        return np.asarray(np.mean([self._trees(code, every) for code in codes], axis=0))

    def _trees(self, code: float, at: NDArray[np.int64]) -> Array:
        return self._fit.trees.predict(np.hstack([np.full((len(at), 1), code), self._dense[at]]))


class _Trees:
    """Boosted trees on one thread.

    Their threads wait for each other at every leaf: beside busy processes, two threads took ten
    times as long as one.
    """

    def __init__(
        self, seen: Array, target: Array, seed: int, *, categories: list[int] | None = None
    ) -> None:
        trees = HistGradientBoostingRegressor(
            max_iter=200,
            learning_rate=0.06,
            max_leaf_nodes=31,
            min_samples_leaf=20,
            l2_regularization=1.0,
            categorical_features=categories,
            random_state=seed,
        )
        with threadpool_limits(limits=1):
            self._trees = trees.fit(seen, target)

    def predict(self, seen: Array) -> Array:
        with threadpool_limits(limits=1):
            return np.asarray(self._trees.predict(seen))
