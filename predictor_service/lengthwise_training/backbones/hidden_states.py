"""Hidden states of a served LLM, one vector for each prompt.

`lengthwise collect --hidden-states` runs prompts through a Hugging Face model and writes the
vectors, for `lengthwise train --backbone hidden`. Such a predictor needs the LLM's forward pass at
every request, so the predictor service does not load it. `HiddenModel` predicts from vectors.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.prompts import clip
from lengthwise_predictor.features import canonical_llm, normalise, text_features, window
from lengthwise_predictor.model import ANY_LLM
from lengthwise_training.backbones.devices import Device, torch_device
from lengthwise_training.backbones.text_tokenizers import special_tokens, tokenizer_of

Float32Array = NDArray[np.float32]


class VectorsMismatch(ValueError):
    """A file of vectors is of another model or layer; the caller names another file."""


def vector_key(prompt: str) -> str:
    """Return the name of a prompt's vector in the file: 32 hex digits of its SHA-256."""
    return hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()[:32]


def collect_vectors(
    model: str,
    prompts: Sequence[str],
    out: Path,
    *,
    layer: int = -1,
    pooling: Literal["last", "mean"] = "last",
    max_tokens: int = 1024,
    save_every: int = 64,
    device: Device = "cpu",
    on_vector: Callable[[int, int], object] = lambda done, missing: None,
) -> int:
    """Write the vectors of some prompts to an NPZ file, except those that it holds already.

    Args:
        model: Folder or hub id of the LLM (its base model runs).
        prompts: As the predictor gets them, clipped.
        out: `*.npz`: `keys`, (n,), and `vectors`, float32, (n, width).
        layer: Whose states, by Hugging Face's numbers; -1 is the last.
        pooling: The state of the last token, or the mean over tokens.
        max_tokens: Tokens read of a text, from both its ends.
        save_every: Prompts after which the file is written, so that a killed run can continue.
        device: Where the LLM runs.
        on_vector: Called after each vector with how many are done, and how many were missing.

    Returns:
        How many vectors were computed.

    Raises:
        DeviceAbsent: The device is missing.
        OSError: There is no such model.
        VectorsMismatch: The file was collected from another model, or with other settings.
    """
    where = torch_device(device)
    from transformers import AutoModel

    llm = AutoModel.from_pretrained(model, dtype=torch.float32).eval().to(where)
    tokenizer = tokenizer_of(model)
    before, after = special_tokens(tokenizer)
    room = min(max_tokens, getattr(llm.config, "max_position_embeddings", max_tokens))
    found = _read(out) if out.is_file() else {}
    how = json.dumps({"model": model, "layer": layer, "pooling": pooling, "max_tokens": max_tokens})
    if found and _how(out) not in (how, None):
        raise VectorsMismatch(f"{out} was collected with {_how(out)}, not {how}: name another file")
    missing = [p for p in dict.fromkeys(prompts) if vector_key(p) not in found]
    with torch.inference_mode():
        for done, prompt in enumerate(missing, 1):
            ids = tokenizer.encode(normalise(prompt), add_special_tokens=False).ids
            ids = [*before, *window(ids, room - len(before) - len(after)), *after]
            states = llm(input_ids=torch.tensor([ids], device=where), output_hidden_states=True)
            state = states.hidden_states[layer][0]  # (tokens, width)
            vector = state[-1] if pooling == "last" else state.mean(0)
            found[vector_key(prompt)] = vector.cpu().numpy()
            on_vector(done, len(missing))
            if done % save_every == 0 or done == len(missing):
                _write(out, found, how)
    return len(missing)


def lookup_vectors(path: Path, prompts: Sequence[str]) -> Float32Array:
    """Return the vectors of some prompts, in their order: float32, (prompts, width).

    Raises:
        ValueError: The file lacks some of them.
    """
    found = _read(path)
    missing = sum(vector_key(p) not in found for p in prompts)
    if missing:
        raise ValueError(
            f"{path} lacks the vectors of {missing} of {len(prompts)} prompts; collect them with "
            "`lengthwise collect --hidden-states MODEL --out ROWS`"
        )
    return np.stack([found[vector_key(p)] for p in prompts]).astype(np.float32)


def _read(path: Path) -> dict[str, Float32Array]:
    with np.load(path) as file:
        return dict(zip(file["keys"].tolist(), file["vectors"], strict=True))


def _how(path: Path) -> str | None:
    """Return how a file was collected; None: not recorded."""
    with np.load(path) as file:
        return str(file["how"]) if "how" in file else None


def _write(path: Path, found: dict[str, Float32Array], how: str) -> None:
    """Write the file completely or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(
            file,
            keys=np.array(list(found)),
            vectors=np.stack(list(found.values())),
            how=np.array(how),
        )
    part.replace(path)


class HiddenModel:
    """An exported `hidden` model: vectors in, a prediction out."""

    def __init__(self, folder: Path) -> None:
        """Load what `lengthwise train --backbone hidden` exported."""
        self.card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if self.card.get("reads") != "hidden":
            raise ValueError(f"{folder} reads texts: load it with lengthwise_predictor.model")
        self._llms = {canonical_llm(n): i for i, n in enumerate(self.card["llms"]) if i != ANY_LLM}
        self._tokenizer = tokenizer_of(str(folder))
        self._session = ort.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )

    def predict(self, text: str, vector: Float32Array, llm: str) -> Prediction:
        """Predict one answer's length from the LLM's vector of the same text, float32, (width,)."""
        clean = normalise(clip(text))
        count = len(self._tokenizer.encode(clean, add_special_tokens=False).ids)
        row = self._session.run(
            None,
            {
                "hidden": vector[None].astype(np.float32),
                "features": text_features(clean, count)[None],
                "llm": np.array([self._llms.get(canonical_llm(llm), ANY_LLM)]),
            },
        )[0][0]
        p10, p50, p90, mean = np.exp(np.clip(row, 0.0, 14.0)).tolist()
        return Prediction(
            model_version=str(self.card["version"]),
            p10_tokens=min(p10, p50),
            p50_tokens=p50,
            p90_tokens=max(p50, p90),
            mean_tokens=mean,
            rank_score=float(row[1]),
        )
