"""The baselines of the bundled model's card, fitted on the rows of a `Dataset`.

A constant, the prompt's length, and a bag of words: TF-IDF of 1- and 2-grams with cheap features,
the mean of a ridge regression and of gradient-boosted trees. Called by `evaluate`. `lengthwise
evaluate` uses `scoring.baselines` and `scoring.bag_of_words`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lengthwise_predictor.features import text_features
from lengthwise_training.bundled.dataset import Dataset

Array = NDArray[np.float64]

#: Rows from which on all cores grow the trees. OpenMP's threads wait for each other after every
#: small step, and long where other processes use the cores: on a busy machine of two cores, 260
#: rows took 3 s with one thread and 90 s with two.
_MANY_ROWS = 10_000


def constant(train: Dataset, test: Dataset) -> Array:
    """Return the median length in `train` for each row: float64, (test rows,), tokens."""
    return np.full(len(test.prompt_index), float(np.median(train.samples)))


def prompt_length(train: Dataset, test: Dataset) -> Array:
    """Return the prompt's characters, scaled to the training median: float64, (test rows,)."""
    chars = np.array([len(p) for p in test.prompts], dtype=np.float64)[test.prompt_index]
    return np.asarray(chars * float(np.median(train.samples)) / max(float(np.median(chars)), 1.0))


def bag_of_words(train: Dataset, test: Dataset, *, seed: int = 0) -> Array:
    """Return the mean of ridge and boosted trees, in log tokens: float64, (test rows,), tokens.

    The ridge has a term per LLM beside the words; the trees see the LLM as a category, the cheap
    features and 64 singular vectors of the words.
    """
    used = np.unique(train.prompt_index)
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, max_features=100_000, sublinear_tf=True
    )
    vectorizer.fit([train.prompts[i] for i in used])
    words = vectorizer.transform(train.prompts)
    cheap = np.stack([text_features(p, len(p.split())) for p in train.prompts])
    cheap = StandardScaler().fit(cheap[used]).transform(cheap)
    svd = TruncatedSVD(n_components=min(64, words.shape[1] - 1), random_state=seed)
    svd.fit(words[used])
    dense = np.hstack([cheap, svd.transform(words)])
    target = np.log1p(train.samples.astype(np.float64)).mean(axis=1)

    ridge = Ridge(alpha=1.0, solver="sparse_cg").fit(_wide(words, cheap, train), target)
    trees = HistGradientBoostingRegressor(
        max_iter=400,
        learning_rate=0.06,
        max_leaf_nodes=31,
        min_samples_leaf=20,
        l2_regularization=1.0,
        categorical_features=[0],
        random_state=seed,
    )
    log_tokens = 0.5 * ridge.predict(_wide(words, cheap, test))
    with threadpool_limits(limits=1 if len(target) < _MANY_ROWS else None):
        trees.fit(_narrow(dense, train), target)
        log_tokens += 0.5 * trees.predict(_narrow(dense, test))
    return np.asarray(np.expm1(log_tokens))


def bag_of_words_per_llm(train: Dataset, test: Dataset, *, seed: int = 0) -> Array:
    """Fit `bag_of_words` for each LLM on its own rows: float64, (test rows,), tokens."""
    predicted = np.full(len(test.prompt_index), np.nan)
    for llm in np.unique(test.llm_index):
        of_llm, wanted = train.llm_index == llm, test.llm_index == llm
        if of_llm.sum() >= 20:
            predicted[wanted] = bag_of_words(
                train.rows_where(of_llm), test.rows_where(wanted), seed=seed
            )
        else:
            predicted[wanted] = float(np.median(train.samples))
    return predicted


def _wide(words: Any, cheap: Array, rows: Dataset) -> Any:
    one_hot = sparse.csr_matrix(
        (np.ones(len(rows.llm_index)), (np.arange(len(rows.llm_index)), rows.llm_index)),
        shape=(len(rows.llm_index), len(rows.llms)),
    )
    i = rows.prompt_index
    return sparse.hstack([words[i], sparse.csr_matrix(cheap[i]), one_hot]).tocsr()


def _narrow(dense: Array, rows: Dataset) -> Array:
    return np.hstack([rows.llm_index[:, None], dense[rows.prompt_index]])
