"""One loaded model, which computes log quantiles of the answers' lengths from texts.

This is the only module that depends on the shapes of the ONNX graph.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.prompts import clip
from lengthwise_predictor.errors import ModelUnusable
from lengthwise_predictor.features import (
    FEATURE_NAMES,
    canonical_llm,
    normalise,
    text_features,
    window,
)
from lengthwise_predictor.view import ViewMaker
from lengthwise_predictor.word_pieces import WordPieces

#: Row of the LLM embeddings that stands for every LLM the model was not trained on.
ANY_LLM = 0

#: Bounds of every prediction, log tokens: 1 token and about a million.
LOG_TOKEN_RANGE = (0.0, 14.0)


@dataclass(frozen=True)
class Encoded:
    """One text, ready for the graph.

    Attributes:
        ids: Token ids, at most a window long, without the model's padding id (0 in most models).
        features: float32, (len(FEATURE_NAMES),).
        llm: Row of the LLM embeddings.
    """

    ids: list[int]
    features: NDArray[np.float32]
    llm: int


class LengthModel:
    """A loaded model; `encode` and `run` may be called from several threads."""

    def __init__(
        self, directory: Path, *, provider: str = "auto", intra_op_threads: int = 1
    ) -> None:
        """Load model.json, tokenizer.json and model.onnx from a folder.

        Args:
            directory: Written by `lengthwise train`, `lengthwise adapt` or `bundled.train`.
            provider: `auto`, `cpu` or `cuda`.
            intra_op_threads: Threads of one forward pass.

        Raises:
            ModelUnusable: A file is missing or broken, or was made for other features.
        """
        self.card = _card(directory)
        self.version = str(self.card["version"])
        self.max_tokens = int(self.card["max_tokens"])
        self._pad_id = int(self.card.get("pad_id", 0))
        self._llms = {canonical_llm(n): i for i, n in enumerate(self.card["llms"]) if i != ANY_LLM}
        try:
            self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as exc:  # tokenizers raises a bare Exception for every fault
            raise ModelUnusable(
                f"cannot read {directory / 'tokenizer.json'}: {exc}; export the model again"
            ) from exc
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._word_pieces = WordPieces(self._tokenizer)
        if provider == "auto" and self.card.get("precision") == "int8":
            provider = "cpu"  # CUDA has no kernels for int8 products and would copy back and forth
        # int8 products take their scale from the whole batch, so a prediction would depend on the
        # other texts in it, by up to 7 %. Alone, a short text is not padded to a long one's size.
        self._alone = self.card.get("precision") == "int8"
        self._session = _session(directory / "model.onnx", provider, intra_op_threads)
        #: None: the model has no view of a request.
        self.view_maker = self._view_maker(directory)
        #: Not always the requested one: ONNX Runtime falls back to the CPU, with a warning, where
        #: CUDA's libraries or its device are missing.
        self.provider: str = self._session.get_providers()[0]
        if provider == "cuda" and self.provider != "CUDAExecutionProvider":
            raise ModelUnusable(
                "provider is cuda, but ONNX Runtime could not start it: the driver, the device or "
                "CUDA's libraries are missing; set provider to auto to run on the CPU"
            )

    def _view_maker(self, directory: Path) -> ViewMaker | None:
        widths, outputs = self.card.get("view"), self._session.get_outputs()
        if widths is None and len(outputs) == 1:
            return None
        columns = outputs[1].shape[-1] if len(outputs) == 2 else None
        if not isinstance(widths, list) or sum(widths) != columns:
            raise ModelUnusable(
                f"{directory}: the graph's view has {columns} columns and model.json names "
                f"{widths}; export the model again"
            )
        return ViewMaker.of(self.version, widths, self._tokenizer.get_vocab_size())

    def llm_row(self, name: str) -> int:
        """Return the embedding row of an LLM in any spelling; `ANY_LLM` if it is unknown."""
        return self._llms.get(canonical_llm(name), ANY_LLM)

    def encode(self, text: str, llm: str) -> Encoded:
        """Clip, clean, tokenise and count a text; takes bounded time for any text."""
        return self.encode_for(text, [llm])[0]

    def encode_for(self, text: str, llms: Sequence[str]) -> list[Encoded]:
        """Encode a text for several LLMs, doing the work once."""
        clean = normalise(clip(text))
        ids = self._token_ids(clean)
        seen = window(ids, self.max_tokens) or [1]
        features = text_features(clean, len(ids))
        return [Encoded(seen, features, self.llm_row(llm)) for llm in llms]

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text before it is cut to the window."""
        return len(self._token_ids(normalise(clip(text))))

    def _token_ids(self, clean: str) -> list[int]:
        quick = self._word_pieces.ids(clean)
        if quick is not None:
            return quick
        # The "fast" call skips the offsets, which take a fifth of the time.
        batch = self._tokenizer.encode_batch_fast([clean], add_special_tokens=False)
        ids: list[int] = batch[0].ids
        return ids

    def run(self, batch: Sequence[Encoded]) -> NDArray[np.float32]:
        """Run one forward pass, or one for each text where a shared pass would change the result.

        Args:
            batch: At least one text.

        Returns:
            float32, (batch, 4 + columns of the view): log tokens of p10, p50, p90 and of the mean,
            then the numbers of the view, if the model has one.
        """
        if self._alone and len(batch) > 1:
            return np.concatenate([self._pass([e]) for e in batch])
        return self._pass(batch)

    def _pass(self, batch: Sequence[Encoded]) -> NDArray[np.float32]:
        longest = max(len(e.ids) for e in batch)
        ids = np.full((len(batch), longest), self._pad_id, dtype=np.int64)  # right-padded
        for row, e in zip(ids, batch, strict=True):
            row[: len(e.ids)] = e.ids
        outputs = self._session.run(
            None,
            {
                "ids": ids,
                "features": np.stack([e.features for e in batch]),
                "llm": np.array([e.llm for e in batch], dtype=np.int64),
            },
        )
        return np.concatenate(outputs, axis=1, dtype=np.float32)

    def prediction(
        self, row: NDArray[np.float32], *, ids_of_view: Sequence[int] | None = None
    ) -> Prediction:
        """Turn one row of `run` into a prediction; quantiles are put in order and bounded.

        Args:
            row: float32, as `run` returns it.
            ids_of_view: The token ids that were read, if the prediction shall carry its view.
        """
        p10, p50, p90, mean = (_bounded(float(x)) for x in row[:4])
        view = None
        if ids_of_view is not None and self.view_maker is not None:
            view = self.view_maker.text(row[4:], ids_of_view)
        return Prediction(
            model_version=self.version,
            p10_tokens=math.exp(min(p10, p50)),
            p50_tokens=math.exp(p50),
            p90_tokens=math.exp(max(p90, p50)),
            mean_tokens=math.exp(mean),
            rank_score=float(row[1]),
            view=view,
        )

    def predict(self, text: str, llm: str, *, view: bool = False) -> Prediction:
        """Predict for one text, without the batcher; `view`: the prediction carries its view."""
        encoded = self.encode(text, llm)
        return self.prediction(self.run([encoded])[0], ids_of_view=encoded.ids if view else None)

    def warm_up(self, max_batch: int) -> None:
        """Run every shape that occurs in service, so that the first request is not slow."""
        for size in sorted({1, 2, max_batch}):
            for length in sorted({min(n, self.max_tokens) for n in (8, 64, self.max_tokens)}):
                self.run([Encoded([1] * length, text_features("", length), ANY_LLM)] * size)


def _bounded(log_tokens: float) -> float:
    low, high = LOG_TOKEN_RANGE
    return min(max(log_tokens, low), high)


def _card(directory: Path) -> dict[str, Any]:
    path = directory / "model.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"version", "max_tokens", "llms", "feature_names"} - card.keys()
    except (OSError, ValueError, AttributeError) as exc:
        raise ModelUnusable(f"cannot read {path}: {exc}; point model_dir at a model") from exc
    if missing:
        raise ModelUnusable(f"{path} lacks {sorted(missing)}; export the model again")
    if card.get("reads", "ids") != "ids":
        raise ModelUnusable(
            f"{path} is a model of the served LLM's hidden states, which requests do not carry; "
            "load it with lengthwise_training.backbones.hidden_states.HiddenModel, or serve one "
            "that reads texts"
        )
    if tuple(card["feature_names"]) != FEATURE_NAMES:
        raise ModelUnusable(
            f"{path} was trained on other features than this version computes; train it again"
        )
    return card


def choose_providers(provider: str, available: Sequence[str]) -> list[str]:
    """Choose the execution providers to request from ONNX Runtime, the preferred one first.

    Args:
        provider: `auto`, `cpu` or `cuda`, from the settings.
        available: What this ONNX Runtime was built with.

    Raises:
        ModelUnusable: `cuda` is required and not available.
    """
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    if provider == "cuda" and cuda not in available:
        raise ModelUnusable(
            f"provider is cuda, but this ONNX Runtime has only {list(available)}; "
            "install the `gpu` extra, or set provider to auto"
        )
    return [cuda, cpu] if provider != "cpu" and cuda in available else [cpu]


def _session(path: Path, provider: str, intra_op_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Spinning threads would take CPU time from the other processes on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = choose_providers(provider, ort.get_available_providers())
    try:
        # The CPU's fused skip-and-normalise operator is eight times slower than its two parts.
        return ort.InferenceSession(
            str(path), options, providers=providers, disabled_optimizers=["SkipLayerNormFusion"]
        )
    except Exception as exc:  # onnxruntime has a class for each cause, without a base
        raise ModelUnusable(f"cannot load {path}: {exc}; export the model again") from exc
