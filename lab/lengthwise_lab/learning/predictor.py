"""The product's predictor in this process, which predicts each text once."""

from __future__ import annotations

from pathlib import Path

from lengthwise_contract.prediction import Prediction
from lengthwise_learning.view import View
from lengthwise_predictor.model import LengthModel

#: A name that no predictor was trained on.
_UNKNOWN_LLM = "an-unknown-llm"


class NoView(Exception):
    """The model has no view of a request that could be learned from; the message names it."""


class CachedPredictor:
    """Predicts texts with a model; the predictions are kept."""

    def __init__(self, folder: Path, *, unnamed: bool = False) -> None:
        """Load the model in a folder; `unnamed`: ask about an LLM that it does not know.

        Raises:
            NoView: There is nothing to learn from.
            ModelUnusable: The folder holds no usable model.
        """
        self._model = LengthModel(folder, provider="cpu")
        if self._model.view_maker is None:
            raise NoView(f"the model in {folder} has no view of requests; use the bundled one")
        self._unnamed = unnamed
        self._kept: dict[tuple[int, str], tuple[Prediction, View]] = {}

    def __call__(self, prompt: str, llm: str) -> tuple[Prediction, View]:
        """Return the prediction, without its view, and the view."""
        name = _UNKNOWN_LLM if self._unnamed else llm
        key = (self._model.llm_row(name), prompt)
        if key not in self._kept:
            found = self._model.predict(prompt, name, view=True)
            view = View.from_text(found.view or "")
            self._kept[key] = found.model_copy(update={"view": None}), view
        return self._kept[key]
