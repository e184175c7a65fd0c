"""Trains the pair cross-encoder, and compares prompts with it; called by `runs`.

The pairs of a step are answers of one LLM each, drawn anew in every epoch: a queue holds one LLM,
and pairs of two LLMs would mostly teach which LLM is wordier.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from lengthwise_training.data.examples import Examples
from lengthwise_training.fitting.cross_predictor import CrossPredictor
from lengthwise_training.fitting.insertion import insertion_orders
from lengthwise_training.fitting.prepared import READ_AT_ONCE, PreparedRows, pad
from lengthwise_training.fitting.trainer import TaskTrainer

Rows = NDArray[np.int64]

#: Pairs of validation rows that score an epoch: with 512, a share of 0.75 has an error of 0.02.
_VALIDATION_PAIRS = 512

#: Prompts in a list that is ordered by insertion, and number of such lists, at most. The inventors
#: of the method measured on lists of 50.
LIST, LISTS = 50, 8


class PairTrainer(TaskTrainer):
    """A `TaskTrainer` whose steps compare rows, each with another one of its LLM."""

    predictor: CrossPredictor

    def __init__(self, *arguments: Any) -> None:
        """Take the arguments of `TaskTrainer`."""
        super().__init__(*arguments)
        self._learned = set(self.training.tolist())
        self._against: tuple[Rows, Tensor] | None = None

    @override
    def step_loss(self, rows: Rows, rng: np.random.Generator, vectors: Tensor | None) -> Tensor:
        others = self.partners(rows, rng)
        margin, longer, known = self.compare(rows, others)
        loss = functional.binary_cross_entropy_with_logits(margin, longer, reduction="none")
        return (loss * known).sum() / known.sum().clamp(min=1)

    @override
    def vectors_for_steps(self) -> None:
        return None

    def partners(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """Draw, for each row, another one of its LLM and its side of the split, int64, (rows,)."""
        pool = self.training if rows[0] in self._learned else self.validation
        llm = self.prepared.examples.llm_index
        return np.array([rng.choice(pool[llm[pool] == llm[row]]) for row in rows])

    def compare(self, rows: Rows, others: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Compare rows: logit that the row is longer, whether it is, and whether that is known.

        float32, (rows,) each, on the device.
        """
        first, second = self.batch(rows).one(), self.batch(others).one()
        gap = first[0] - second[0]
        # The shorter answer must have ended; a cut one comes behind an equal one that ended.
        longer = (gap > 0) | ((gap == 0) & first[1] & ~second[1])
        ended = torch.where(longer, ~second[1], ~first[1])
        known = ended & ((gap != 0) | (first[1] ^ second[1]))
        pairs = self.prompt[rows], self.prompt[others]
        margin = pair_margins(self.predictor, self.prepared, pairs, self.llm[rows])
        return margin, longer.to(margin.dtype), known.to(margin.dtype)

    @override
    def raw(self, rows: Rows, llm: Tensor) -> Tensor:
        if self._against is None:
            prompts = np.unique(self.prompt[rows])
            self._against = prompts, read_against(self.predictor, self.prepared, prompts)
        prompts, vectors = self._against
        at = np.searchsorted(prompts, self.prompt[rows])
        features = self.prepared.features[self.prompt[rows]]
        return scored(self.predictor, vectors[at], features, llm)

    @override
    def validation_tau(self) -> float:
        """Share of validation pairs in the right order minus the share in the wrong order."""
        self.predictor.eval()
        self._against = None
        rng = np.random.default_rng(self.config.seed)
        rows = rng.choice(self.validation, _VALIDATION_PAIRS)
        others = self.partners(rows, rng)
        right = total = 0.0
        torch.manual_seed(self.config.seed)
        with torch.inference_mode():
            for part in np.array_split(
                np.arange(_VALIDATION_PAIRS), _VALIDATION_PAIRS // READ_AT_ONCE
            ):
                margin, longer, known = self.compare(rows[part], others[part])
                right += float((((margin > 0) == (longer > 0)) * known).sum())
                total += float(known.sum())
        return 2 * right / total - 1 if total else 0.0

    @override
    def load_trainable(self, state: dict[str, Tensor]) -> None:
        super().load_trainable(state)
        self._against = None


def pair_margins(
    predictor: CrossPredictor, prepared: PreparedRows, pairs: tuple[Rows, Rows], llm: Tensor
) -> Tensor:
    """Compute logits that the first prompts' answers are longer: float32, (pairs,)."""
    device = predictor.anchor_ids.device
    first, second = (pad(prepared, prompts).to(device) for prompts in pairs)
    own, others = (prepared.features[prompts].to(device) for prompts in pairs)
    return predictor.margin(predictor.encoder(first, second), own, others, llm.to(device))


def read_against(predictor: CrossPredictor, prepared: PreparedRows, prompts: Rows) -> Tensor:
    """Encode prompts with every anchor: float32, (prompts, anchors, width), in main memory."""
    predictor.eval()
    device = predictor.anchor_ids.device
    order = np.argsort([len(prepared.ids[i]) for i in prompts], kind="stable")
    out = torch.zeros(len(prompts), predictor.anchor_ids.shape[0], predictor.encoder.width)
    at_once = max(1, READ_AT_ONCE // len(predictor.anchor_ids))
    with torch.inference_mode():
        for part in np.array_split(order, -(-len(order) // at_once)):
            out[part] = predictor.read(pad(prepared, prompts[part]).to(device)).cpu()
    return out


def against_anchors(predictor: CrossPredictor, prepared: PreparedRows, rows: Rows) -> Tensor:
    """Compute the head's raw numbers for some rows, float32, (rows, 1)."""
    examples = prepared.examples
    prompts, where = np.unique(examples.prompt_index[rows], return_inverse=True)
    vectors = read_against(predictor, prepared, prompts)[where]
    llm = torch.from_numpy(examples.llm_index[rows] + 1)
    return scored(predictor, vectors, prepared.features[examples.prompt_index[rows]], llm)


def scored(predictor: CrossPredictor, vectors: Tensor, features: Tensor, llm: Tensor) -> Tensor:
    """Compute the head's raw number, float32, (rows, 1); see `CrossPredictor.scores`."""
    device = predictor.anchor_ids.device
    with torch.inference_mode():
        out = predictor.scores(vectors.to(device), features.to(device), llm.to(device))
    return out.cpu().clone()


def inserted(
    predictor: CrossPredictor, prepared: PreparedRows, examples: Examples, rows: Rows
) -> tuple[list[Rows], int]:
    """Order lists of test rows, each of one LLM, by binary insertion.

    Args:
        predictor: Trained.
        prepared: The rows as the predictor reads them.
        examples: Its rows.
        rows: The rows to order; the first `LIST` of `LISTS` LLMs are used.

    Returns:
        Each list, shortest answer first, as places among `rows`; and the number of pairs that were
        read.
    """
    llm = examples.llm_index[rows]
    lists = [np.flatnonzero(llm == one)[:LIST] for one in np.unique(llm)[:LISTS]]
    predictor.eval()

    def longer(comparisons: list[tuple[int, int, int]]) -> list[bool]:
        first = rows[[lists[g][item] for g, item, _ in comparisons]]
        second = rows[[lists[g][other] for g, _, other in comparisons]]
        pairs = examples.prompt_index[first], examples.prompt_index[second]
        with torch.inference_mode():
            margin = pair_margins(
                predictor, prepared, pairs, torch.from_numpy(examples.llm_index[first] + 1)
            )
        return [bool(m > 0) for m in margin]

    orders, comparisons = insertion_orders([len(one) for one in lists], longer)
    return [one[order] for one, order in zip(lists, orders, strict=True)], comparisons
