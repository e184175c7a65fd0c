"""Turns a `Dataset` into tensors, once, and yields batches of prompts of similar length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from lengthwise_predictor.features import normalise, text_features, window
from lengthwise_training.bundled.dataset import Dataset

#: Prompts that are padded to one length; a batch holds several such groups.
GROUP = 16


@dataclass(frozen=True)
class EncodedTexts:
    """Prompts as the network reads them.

    Attributes:
        ids: Token ids of each prompt, at most a window long.
        features: float32, (prompts, feature_count).
    """

    ids: list[list[int]]
    features: Tensor


@dataclass(frozen=True)
class LengthTargets:
    """Lengths by prompt and author.

    Attributes:
        log_samples: float32, (prompts, authors, n), log tokens; 0 where unknown.
        known: bool, (prompts, authors).
    """

    log_samples: Tensor
    known: Tensor


def encode(prompts: list[str], tokenizer: Tokenizer, max_tokens: int) -> EncodedTexts:
    """Tokenise prompts and count their features; the tokenizer must neither pad nor cut."""
    clean = [normalise(p) for p in prompts]
    encodings = tokenizer.encode_batch_fast(clean, add_special_tokens=False)
    features = [text_features(p, len(e.ids)) for p, e in zip(clean, encodings, strict=True)]
    return EncodedTexts(
        ids=[window(e.ids, max_tokens) or [1] for e in encodings],
        features=torch.from_numpy(np.stack(features)),
    )


def targets(dataset: Dataset) -> LengthTargets:
    """Spread the rows over a dense (prompt, author) table."""
    shape = (len(dataset.prompts), len(dataset.llms))
    log_samples = np.zeros((*shape, dataset.samples.shape[1]), dtype=np.float32)
    known = np.zeros(shape, dtype=bool)
    log_samples[dataset.prompt_index, dataset.llm_index] = np.log(dataset.samples)
    known[dataset.prompt_index, dataset.llm_index] = True
    return LengthTargets(torch.from_numpy(log_samples), torch.from_numpy(known))


def batches(
    texts: EncodedTexts, prompts: NDArray[np.int64], size: int, rng: np.random.Generator | None
) -> Iterator[tuple[NDArray[np.int64], list[Tensor]]]:
    """Yield batches of prompts: their numbers, and their ids in groups of similar length.

    A batch is a random sample, so that long prompts are compared with short ones (batches sorted by
    length were tried: tau-b was 0.017 lower). Inside it, the groups keep padding small.

    Args:
        texts: All prompts.
        prompts: int64, which of them to yield.
        size: Prompts in a batch.
        rng: Shuffles; None keeps the order.

    Yields:
        Prompt numbers in order of length, and int64 id tensors, (group, seq), in the same order.
    """
    order = prompts.copy() if rng is None else rng.permutation(prompts)
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        chunk = chunk[np.argsort([len(texts.ids[i]) for i in chunk], kind="stable")]
        groups = [
            pad([texts.ids[i] for i in part])
            for part in np.array_split(chunk, max(1, len(chunk) // GROUP))
        ]
        yield chunk, groups


def pad(ids: list[list[int]]) -> Tensor:
    """Right-pad with 0: int64, (batch, longest)."""
    out = torch.zeros((len(ids), max(len(i) for i in ids)), dtype=torch.int64)
    for row, row_ids in zip(out, ids, strict=True):
        row[: len(row_ids)] = torch.tensor(row_ids)
    return out
