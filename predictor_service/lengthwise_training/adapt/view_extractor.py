"""Runs the bundled model up to its kernel view: the vector by which it compares prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lengthwise_predictor.model import LengthModel

Array = NDArray[np.float64]


class NoKernelView(Exception):
    """The model has no kernel view that could be fitted; the message names the model."""


class ViewExtractor:
    """Runs a model up to its kernel view of a prompt."""

    def __init__(self, directory: Path, model: LengthModel) -> None:
        """Open the graph a second time, with the view as its output.

        Raises:
            NoKernelView: The graph has none.
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
            raise NoKernelView(f"the model in {directory} has no kernel whose view could be fitted")
        self.view_name = views[-1]  #: Name of the tensor, float32, (batch, columns).
        del graph.graph.output[:]
        graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(self.view_name))
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            graph.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],  # see `lengthwise_predictor.model`
        )
        self._kept: dict[str, NDArray[np.float32]] = {}
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._model = model

    def views(self, prompts: Sequence[str]) -> Array:
        """Return the views, float64, (prompts, columns).

        They are cached, since several fits use the same prompts.
        """
        for prompt in prompts:
            if prompt not in self._kept:
                self._kept[prompt] = self._view(prompt)[0]
        return np.array([self._kept[p] for p in prompts], dtype=np.float64)

    def ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids that the model reads of each prompt, without running it."""
        return [self._model.encode(p, "*").ids for p in prompts]

    def views_and_ids(self, prompts: Sequence[str]) -> tuple[Array, list[list[int]]]:
        """Return the views, and the token ids that the model reads of each prompt."""
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
