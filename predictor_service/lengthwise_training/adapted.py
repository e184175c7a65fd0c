"""The bundled model's way of seeing prompts, fitted to the user's own lengths in closed form.

A model that was trained on other LLMs and other prompts knows what prompts are alike; a few hundred
measured answers say what that means for a new LLM. So the likeness of the model's inner view (its
kernel's) is regressed on the rows given, together with the bag of words of the same rows. Called by
comparison, as the row `bundled+adapted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from lengthwise_predictor.model import LengthModel
from lengthwise_training.length_rows import LengthTable
from lengthwise_training.rank_scores import Said
from lengthwise_training.rivals import BagOfWords

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
        made = [o for n in graph.graph.node if n.name.startswith("/view/") for o in n.output]
        read = {i for n in graph.graph.node if n.name.startswith("/regression/") for i in n.input}
        views = [name for name in made if name in read]
        if not views:
            raise NoView(f"the model in {directory} has no kernel whose view could be fitted")
        del graph.graph.output[:]
        graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(views[-1]))
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            graph.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],  # as serving does, and says why
        )
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._model = model

    def views(self, prompts: Sequence[str]) -> Array:
        """float64, (prompts, columns)."""
        out = []
        for prompt in prompts:
            e = self._model.encode(prompt, "*")
            feed = {
                "ids": np.array([e.ids], dtype=np.int64),
                "features": e.features[None],
                "llm": np.zeros(1, dtype=np.int64),
            }
            feed = {name: value for name, value in feed.items() if name in self._inputs}
            out.append(self._session.run(None, feed)[0][0])
        return np.array(out, dtype=np.float64)


class Adapted:
    """Kernel regression on a model's view, averaged with the bag of words, per LLM.

    Lengths of all LLMs together say how long prompts are; an LLM's own say how it differs. The
    more rows of its own an LLM has, the more these count.
    """

    def __init__(
        self, viewer: Viewer, words: BagOfWords, train: LengthTable, *, seed: int = 0
    ) -> None:
        """Fit on `train`; `words` must have been fitted on the same rows."""
        self._viewer, self._words = viewer, words
        rng = np.random.default_rng(seed)
        kept = np.sort(rng.permutation(len(train.prompts))[:_MOST_PROMPTS])
        place = np.full(len(train.prompts), -1)
        place[kept] = np.arange(len(kept))
        self._points = viewer.views([train.prompts[i] for i in kept])
        kernel = likeness(self._points, self._points)
        at = place[train.prompt_index]
        rows, at = np.flatnonzero(at >= 0), at[at >= 0]
        llms, target = train.llms[rows], train.log_mean()[rows]
        self._level = {str(m): float(target[llms == m].mean()) for m in np.unique(llms)}
        self._any_level = float(np.mean(list(self._level.values())))
        away = target - np.array([self._level[m] for m in llms])
        count = np.bincount(at, minlength=len(kept))
        mean = np.bincount(at, weights=away, minlength=len(kept)) / np.maximum(count, 1)
        # A prompt that many LLMs answered is known better: its share of the ridge shrinks.
        self._pooled = np.linalg.solve(kernel + np.diag(_RIDGE / np.sqrt(count)), mean)
        self._own: dict[str, tuple[NDArray[np.int64], Array, float]] = {}
        for llm in self._level:
            mine = llms == llm
            own = at[mine]
            gram = kernel[np.ix_(own, own)] + _RIDGE * np.eye(len(own))
            share = own_share(len(own)) if len(self._level) > 1 else 1.0
            self._own[llm] = (own, np.linalg.solve(gram, away[mine]), share)

    def predict(self, table: LengthTable) -> Said:
        """Each row by its LLM's own lengths and all LLMs'; an unknown LLM by all LLMs'."""
        near = likeness(self._viewer.views(table.prompts), self._points)
        pooled = near @ self._pooled
        log_tokens = self._any_level + pooled[table.prompt_index]
        for llm, (own, weights, share) in self._own.items():
            mine = table.llms == llm
            at = table.prompt_index[mine]
            away = share * (near[np.ix_(at, own)] @ weights) + (1.0 - share) * pooled[at]
            log_tokens[mine] = self._level[llm] + away
        both = 0.5 * (log_tokens + self._words.log_tokens(table, own_share))
        return Said(np.maximum(np.expm1(both), 1.0))


def own_share(rows: int) -> float:
    """How much an LLM's own rows count beside those of all LLMs together, 0 to 1."""
    return rows / (rows + _HALF_OWN_ROWS)


def likeness(a: Array, b: Array) -> Array:
    """The Matern 3/2 kernel, as `kernel.likeness`: (rows of a, rows of b), 0 to 1."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    distance = np.sqrt(3.0 * np.maximum(squares, 0.0) + 1e-9)
    return np.asarray((1.0 + distance) * np.exp(-distance))
