"""The bundled model's way of seeing prompts, fitted to the user's own lengths in closed form.

A model that was trained on other LLMs and other prompts knows what prompts are alike; a few hundred
measured answers say what that means for a new LLM. So the likeness of the model's inner view (its
kernel's) is regressed on the rows given, beside the words. Called by comparison, as the row
`bundled+adapted`, and by adapt, which writes it as a model that serving can load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lengthwise_predictor.model import LengthModel
from lengthwise_training.adapt.words import fit_words
from lengthwise_training.compare.scores import Said
from lengthwise_training.data.rows import LengthTable

Array = NDArray[np.float64]

#: Prompts that the kernel is fitted on, at most: the solution costs their cube.
_MOST_PROMPTS = 4000

#: Added to the kernel's diagonal; the bundled kernel's own.
_RIDGE = 0.2

#: With this many rows an LLM's own count half, beside those of all LLMs together.
_HALF_OWN_ROWS = 1000


class NoView(Exception):
    """The model has no inner view of a prompt that could be fitted; the message names it."""


class Viewer:
    """Runs a model up to its view of a prompt."""

    def __init__(self, directory: Path, model: LengthModel) -> None:
        """Open the graph a second time, with the view as its output.

        Raises:
            NoView: The graph has none.
        """
        graph = onnx.load(str(directory / "model.onnx"))
        self.directory, self.model = directory, model
        self.vocabulary = int(
            Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()
        )
        made = [o for n in graph.graph.node if n.name.startswith("/view/") for o in n.output]
        read = {i for n in graph.graph.node if n.name.startswith("/regression/") for i in n.input}
        views = [name for name in made if name in read]
        if not views:
            raise NoView(f"the model in {directory} has no kernel whose view could be fitted")
        self.view_name = views[-1]  #: Of the tensor, float32, (batch, columns).
        del graph.graph.output[:]
        graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(self.view_name))
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            graph.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],  # as serving does, and says why
        )
        self._kept: dict[str, NDArray[np.float32]] = {}
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._model = model

    def views(self, prompts: Sequence[str]) -> Array:
        """float64, (prompts, columns); kept, since several fits learn from the same prompts."""
        for prompt in prompts:
            if prompt not in self._kept:
                self._kept[prompt] = self._view(prompt)[0]
        return np.array([self._kept[p] for p in prompts], dtype=np.float64)

    def ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The token ids that the model reads of each prompt, without running it."""
        return [self._model.encode(p, "*").ids for p in prompts]

    def views_and_ids(self, prompts: Sequence[str]) -> tuple[Array, list[list[int]]]:
        """The same, and the token ids that the model reads of each prompt."""
        both = [self._view(p) for p in prompts]
        return np.array([view for view, _ in both], dtype=np.float64), [ids for _, ids in both]

    def _view(self, prompt: str) -> tuple[NDArray[np.float32], list[int]]:
        e = self._model.encode(prompt, "*")
        feed = {
            "ids": np.array([e.ids], dtype=np.int64),
            "features": e.features[None],
            "llm": np.zeros(1, dtype=np.int64),
        }
        feed = {name: value for name, value in feed.items() if name in self._inputs}
        return self._session.run(None, feed)[0][0], e.ids


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
        return self.base + likeness(views, self.points) @ self.weights

    def column(self, llm: str) -> int:
        """Which column answers for an LLM."""
        return self.llms.index(llm) + 1 if llm in self.llms else 0


def fit_kernel(viewer: Viewer, train: LengthTable, *, seed: int = 0) -> KernelFit:
    """Fit on `train`, in closed form.

    Lengths of all LLMs together say how long prompts are; an LLM's own say how it differs. The
    more rows of its own an LLM has, the more these count.
    """
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(len(train.prompts))[:_MOST_PROMPTS])
    place = np.full(len(train.prompts), -1)
    place[kept] = np.arange(len(kept))
    points = viewer.views([train.prompts[i] for i in kept])
    kernel = likeness(points, points)
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


class Adapted:
    """A kernel on the model's view and a ridge on its words, in equal parts: what `adapt` writes.

    The mean is worth 0.02 to 0.05 of tau-b over either (docs/research/experiments.md).
    """

    def __init__(self, viewer: Viewer, train: LengthTable, *, seed: int = 0) -> None:
        """Fit on `train`."""
        self.viewer = viewer
        self.kernel = fit_kernel(viewer, train, seed=seed)
        level = {m: self.kernel.base[self.kernel.column(m)] for m in self.kernel.llms}
        at = np.array([level.get(str(m), np.nan) for m in train.llms])
        known = np.isfinite(at)  # an LLM may have none of the prompts that the kernel kept
        self.words = fit_words(
            viewer.ids(train.prompts),
            train.prompt_index[known],
            (train.log_mean() - at)[known],
            vocabulary=viewer.vocabulary,
        )

    def log_tokens(self, views: Array, ids: Sequence[Sequence[int]]) -> Array:
        """log(1 + tokens), float64, (prompts, 1 + llms)."""
        by_words = self.kernel.base + self.words.away(ids)[:, None]
        return 0.5 * (self.kernel.log_tokens(views) + by_words)

    def predict(self, table: LengthTable) -> Said:
        """Each row by its LLM's own lengths and all LLMs'; an unknown LLM by all LLMs'."""
        said = self.log_tokens(*self.viewer.views_and_ids(table.prompts))
        columns = {str(m): self.kernel.column(str(m)) for m in np.unique(table.llms)}
        log_tokens = said[table.prompt_index, [columns[str(m)] for m in table.llms]]
        return Said(np.maximum(np.expm1(log_tokens), 1.0))


def own_share(rows: int) -> float:
    """How much an LLM's own rows count beside those of all LLMs together, 0 to 1."""
    return rows / (rows + _HALF_OWN_ROWS)


def likeness(a: Array, b: Array) -> Array:
    """The Matern 3/2 kernel, as `kernel.likeness`: (rows of a, rows of b), 0 to 1."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    distance = np.sqrt(3.0 * np.maximum(squares, 0.0) + 1e-9)
    return np.asarray((1.0 + distance) * np.exp(-distance))
