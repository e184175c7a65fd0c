"""The kernel regression of the bundled model: it predicts a length from similar texts.

Kernel ridge regression with a Matern kernel on three views of a text: its counts, its topics (a
linear map of its words and word pairs), and the tuned encoder's state. Fitted in seconds in closed
form: first what all LLMs share, then how each one differs. Called by `train` and
`blended_predictor`.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from torch import Tensor, nn

from lengthwise_training.backbones.counts import standardise
from lengthwise_training.backbones.tables import SparseTable

Array = NDArray[np.float64]

#: Rows of the hashed table of tokens and token pairs.
TOPIC_BUCKETS = 49_152


@dataclass(frozen=True)
class KernelConfig:
    """The parameters of the comparison of texts; chosen on an inner split of the training prompts.

    Attributes:
        counts_weight: Weight of the counts in the distance.
        topics_weight: Weight of the topics.
        sense_weight: Weight of the encoder's view.
        topics: Singular vectors kept of the words.
        senses: Principal components kept of the encoder's states.
        decay: Component k weighs k ** -decay.
        ridge: Added to the kernel's diagonal for what all LLMs share; more smooths more.
        own_ridge: The same for how one LLM differs, of which there are fewer data.
    """

    counts_weight: float = 0.65
    topics_weight: float = 1.2
    sense_weight: float = 0.6
    topics: int = 64
    senses: int = 32
    decay: float = 0.5
    ridge: float = 0.2
    own_ridge: float = 0.4


class Topics(nn.Module):
    """The words and word pairs of a text, TF-IDF-weighted, on their main singular vectors."""

    def __init__(self, vocabulary: int, table: Tensor) -> None:
        """`table`: float32, (TOPIC_BUCKETS, 1 + topics); column 0 holds squared IDF weights."""
        super().__init__()
        self.vocabulary = vocabulary
        self.table: nn.Module = nn.Embedding.from_pretrained(table, freeze=True)

    def forward(self, ids: Tensor) -> Tensor:
        """Compute the topics of texts, float32, (batch, topics).

        Before the projection, a text's vector of TF-IDF weights has length 1.
        """
        present = ids != 0
        both_present = present[:, :-1] & present[:, 1:]
        pairs = pair_buckets(ids[:, :-1], ids[:, 1:], self.vocabulary) * both_present
        first, rest = _damped(self._rows(ids), ids, present)
        more_first, more_rest = _damped(self._rows(pairs), pairs, both_present)
        return (rest + more_rest) / (first + more_first).clamp(min=1e-6).sqrt()

    def _rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.table, SparseTable):
            return self.table.parts(ids)
        rows = self.table(ids)
        return rows[..., :1], rows[..., 1:]


def _damped(rows: tuple[Tensor, Tensor], ids: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the rows of a text with 1 + log(count) for each distinct id.

    Args:
        rows: squared IDF, (batch, seq, 1), and weighted singular vectors, (batch, seq, topics).
        ids: int64, (batch, seq), 0 exactly where padded.
        present: bool, (batch, seq), False for padding.

    Returns:
        The squared length of the TF-IDF vector, (batch, 1), and its topics, (batch, topics).
    """
    small = ids.to(torch.int32)
    count = (small.unsqueeze(2) == small.unsqueeze(1)).float().sum(2)
    weight = 1.0 + count.log()
    share = (present.float() / count).unsqueeze(1)  # (batch, 1, seq): each distinct id once
    topics = (share * weight.unsqueeze(1)) @ rows[1]
    squares = (share * weight.square().unsqueeze(1)) @ rows[0]
    return squares.squeeze(1), topics.squeeze(1)


def pair_buckets(left: Tensor, right: Tensor, vocabulary: int) -> Tensor:
    """Return the table rows of neighbouring tokens; the rows of single tokens come before them."""
    return vocabulary + (left * 31_337 + right * 7) % (TOPIC_BUCKETS - vocabulary)


def fit_topics(ids: list[list[int]], vocabulary: int, count: int) -> Topics:
    """Learn the topics of some texts.

    Args:
        ids: Token ids of each text.
        vocabulary: Token ids are below this.
        count: Singular vectors to keep.
    """
    rows, columns = [], []
    for row, row_ids in enumerate(ids):
        t = torch.tensor(row_ids)
        seen = torch.cat([t, pair_buckets(t[:-1], t[1:], vocabulary)]).tolist()
        rows += [row] * len(seen)
        columns += seen
    counts = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, columns)), shape=(len(ids), TOPIC_BUCKETS)
    )
    counts.sum_duplicates()
    texts = np.asarray((counts > 0).sum(axis=0)).ravel()
    idf = np.where(texts >= 2, np.log((1 + len(ids)) / (1 + texts)), 0.0)
    counts.data = 1.0 + np.log(counts.data)  # without it tau-b of the kernel was 0.007 lower
    weighted = counts @ sparse.diags(idf)
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    weighted = (sparse.diags(1 / np.maximum(length, 1e-3)) @ weighted).tocsr()
    count = min(count, len(ids) - 1)
    svd = TruncatedSVD(n_components=count, random_state=0).fit(weighted)
    table = np.concatenate([(idf**2)[:, None], idf[:, None] * svd.components_.T], axis=1)
    return Topics(vocabulary, torch.from_numpy(table.astype(np.float32)))


class KernelView(nn.Module):
    """Maps a text to the vector by which the kernel compares it."""

    def __init__(self, topics: Topics, config: KernelConfig) -> None:
        """Store the parts; call `fit` next."""
        super().__init__()
        self.topics = topics
        self.config = config
        for name in ("centre", "spread", "topic_centre", "topic_scale", "sense_centre", "senses"):
            self.register_buffer(name, torch.zeros(0))

    def fit(self, features: Tensor, topics: Tensor, states: Tensor) -> None:
        """Learn the scales from the training texts' counts, topics and states."""
        c = self.config
        self.centre, self.spread = features.mean(0), features.std(0).clamp(min=0.01)
        weight = _decay(topics.shape[1], c.decay)
        self.topic_centre = topics.mean(0)
        self.topic_scale = c.topics_weight * weight / topics.std(0).clamp(min=1e-4)
        self.sense_centre = states.mean(0)
        values, directions = torch.linalg.eigh(torch.cov(states.t()))
        kept = min(c.senses, len(states) - 1, states.shape[1])
        values, directions = values.flip(0)[:kept], directions.flip(1)[:, :kept]
        whiten = directions / values.clamp(min=1e-6).sqrt()
        self.senses = c.sense_weight * whiten * _decay(kept, c.decay)

    def combine(self, features: Tensor, topics: Tensor, states: Tensor) -> Tensor:
        """Concatenate the three views, float32, (batch, columns)."""
        counts = standardise(features, self.centre, self.spread)
        return torch.cat(
            [
                counts * (self.config.counts_weight / features.shape[1] ** 0.5),
                ((topics - self.topic_centre) * self.topic_scale),
                (states - self.sense_centre) @ self.senses,
            ],
            dim=1,
        )

    def forward(self, ids: Tensor, features: Tensor, states: Tensor) -> Tensor:
        """Compute the view, float32, (batch, columns).

        `states`: the encoder's, float32, (batch, width).
        """
        return self.combine(features, self.topics(ids), states)


def _decay(count: int, decay: float) -> Tensor:
    """Return weights of components 1 to count; their vector has length 1."""
    weight = torch.arange(1, count + 1).float() ** -decay
    return weight / weight.square().sum().sqrt()


class KernelRegression(nn.Module):
    """Mean log length per LLM, from a text's similarity to the training texts."""

    def __init__(self, points: Tensor, weights: Tensor, base: Tensor) -> None:
        """`points`: (support, columns); `weights`: (support, llms); `base`: (llms,)."""
        super().__init__()
        self.register_buffer("points", points)
        self.register_buffer("squares", points.square().sum(1))
        self.register_buffer("weights", weights)
        self.register_buffer("base", base)

    def forward(self, view: Tensor) -> Tensor:
        """Compute log tokens for each LLM, float32, (batch, llms); `view`: (batch, columns)."""
        return self.base + similarity(view, self.points, self.squares) @ self.weights


def similarity(a: Tensor, b: Tensor, b_squares: Tensor) -> Tensor:
    """Compute the Matern 3/2 kernel of the distance d: (1 + d') exp(-d'), d' = sqrt(3) d.

    Gaussian and Laplace kernels were tried: tau-b was 0.005 to 0.01 lower.

    Returns:
        (rows of a, rows of b), 0 to 1.
    """
    squares = a.square().sum(1, keepdim=True) + b_squares - 2.0 * (a @ b.t())
    distance = (3.0 * squares.clamp(min=0.0) + 1e-9).sqrt()
    return (1.0 + distance) * torch.exp(-distance)


def fit_regression(
    view: Tensor, log_mean: Array, known: NDArray[np.bool_], config: KernelConfig
) -> KernelRegression:
    """Solve for the weights: first of what LLMs share, then of how each one differs.

    If each LLM learned from its own texts only, tau-b would be 0.003 lower.

    Args:
        view: float32, (texts, columns).
        log_mean: float64, (texts, llms), mean log length; any value where unknown.
        known: bool, (texts, llms), at least one in each row.
        config: The ridges.
    """
    points = view.double()
    kernel = similarity(points, points, points.square().sum(1)).numpy()
    count = np.maximum(known.sum(axis=0), 1)
    base = np.where(known, log_mean, 0.0).sum(axis=0) / count
    off = np.where(known, log_mean - base, 0.0)
    spread = np.maximum(np.sqrt(np.square(off).sum(axis=0) / count), 1e-3)
    place = off / spread
    answers = known.sum(axis=1)
    shared = place.sum(axis=1) / np.maximum(answers, 1)
    # The mean over few LLMs is noisier; a fifth of the noise is assumed to be the LLM's own.
    noise = config.ridge * (1.0 + 0.2 * (known.shape[1] / np.maximum(answers, 1) - 1.0))
    weights = np.repeat(np.linalg.solve(kernel + np.diag(noise), shared)[:, None], len(base), 1)
    rest = place - (kernel @ weights[:, :1])
    for llm in range(len(base)):
        rows = np.flatnonzero(known[:, llm])
        if len(rows) == 0:
            continue
        gram = kernel[np.ix_(rows, rows)] + config.own_ridge * np.eye(len(rows))
        weights[rows, llm] += np.linalg.solve(gram, rest[rows, llm])
    weights *= spread
    return KernelRegression(view, torch.from_numpy(weights).float(), torch.from_numpy(base).float())
