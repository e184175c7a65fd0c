"""What was learned from finished jobs: it predicts log lengths, and travels as bytes."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise_contract.request_view import BUCKETS
from lengthwise_learning.evidence import Submission
from lengthwise_learning.kernel import (
    KERNEL,
    KERNEL_IN_APPLICATION,
    OTHER_LLM,
    SAME_APPLICATION,
    STATE,
    Points,
    matern,
    squared_lengths,
)
from lengthwise_learning.words import bag_of

Array = NDArray[np.float32]

#: Weight of a repeated request's last answers, beside what is predicted for it.
_REPEATED = 0.7

#: Bounds of a prediction, log tokens: 1 token and about a million.
_RANGE = (0.0, 14.0)

#: Digits of a prediction: two processors' sums differ behind them.
_DIGITS = 4

_MAGIC = b"lengthwise learned 1\n"
_SIZE = struct.Struct("<I")


@dataclass(frozen=True)
class Forecast:
    """Learned predictions for one job, log tokens.

    Attributes:
        learned: From all evidence.
        young: From the newest jobs only; None: they are too few.
    """

    learned: float
    young: float | None


@dataclass(frozen=True)
class LearnedCard:
    """What a fit is, beside its numbers.

    Attributes:
        version: Name of the fit. Another predictor has another one. A later fit to more jobs has
            the same, so that a calibration of its predictions goes on.
        basis: Of the views.
        widths: Of the views.
        finished: Finished jobs of the queue, ever, when it was made.
        samples: Finished jobs that it rests on, of the queue and of its donors.
        llms: The LLMs that have weights; a number below counts them from 1; 0 is any other.
        applications: Known ones, in the order of their numbers.
    """

    version: str
    basis: int
    widths: tuple[int, ...]
    finished: int
    samples: int
    llms: tuple[str, ...]
    applications: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LearnedNumbers:
    """The numbers of a fit. `candidates` is 1 (learned) or 2 (and young).

    Attributes:
        kernel: float16, (support, columns), the kernel view of each job of the support.
        state: float16, (support, columns), its encoder's state.
        application: int32, (support,), -1: unknown.
        llm: int32, (support,); 0: one without weights of its own.
        weights: float32, (support, candidates).
        linear: float32, (1 + llms, candidates, columns), of the kernel's linear part.
        offset: float32, (1 + llms, candidates), log tokens.
        words: int32, (known words,), ascending.
        idf: float32, (known words,).
        tables: float32, (1 + llms, candidates, known words), log tokens.
        repeats: uint64, (requests,), ascending: hashes of LLM and request.
        repeated: float32, (requests,), log tokens.
    """

    kernel: NDArray[np.float16]
    state: NDArray[np.float16]
    application: NDArray[np.int32]
    llm: NDArray[np.int32]
    weights: Array
    linear: Array
    offset: Array
    words: NDArray[np.int32]
    idf: Array
    tables: Array
    repeats: NDArray[np.uint64]
    repeated: Array


@dataclass(frozen=True, eq=False)
class _ForLLM:
    """The weights of one LLM, ready to be multiplied."""

    near: Array
    state: Array
    linear: Array
    offset: Array
    table: Array


class Learned:
    """A fit; the same bytes predict the same in every replica."""

    def __init__(self, card: LearnedCard, numbers: LearnedNumbers) -> None:
        """Lay out the numbers for prediction."""
        self.card = card
        self._numbers = numbers
        self._kernel = numbers.kernel.astype(np.float32)
        self._state = numbers.state.astype(np.float32)
        self._squares = squared_lengths(self._kernel), squared_lengths(self._state)
        self._idf = np.zeros(BUCKETS, dtype=np.float32)
        self._idf[numbers.words] = numbers.idf
        self._llms = {name: i for i, name in enumerate(card.llms, 1)}
        self._applications = {name: i for i, name in enumerate(card.applications)}
        order = np.argsort(numbers.application, kind="stable")
        edges = np.searchsorted(numbers.application[order], np.arange(len(self._applications) + 1))
        self._members = [order[a:b] for a, b in itertools.pairwise(edges)]
        self._of_llm = functools.lru_cache(maxsize=None)(self._prepare)

    @property
    def version(self) -> str:
        """Name of the fit, of which calibrations are kept."""
        return self.card.version

    @property
    def finished(self) -> int:
        """Finished jobs of the queue, ever, when it was made."""
        return self.card.finished

    @property
    def samples(self) -> int:
        """Finished jobs that it rests on."""
        return self.card.samples

    def predict(self, submission: Submission) -> Forecast | None:
        """Predict the length of a job; None: its view is of another predictor.

        `submission.learned` and `.young` are not read.
        """
        view = submission.view
        if view.basis != self.card.basis or view.widths != self.card.widths:
            return None
        of = self._of_llm(self._llms.get(submission.llm, 0))
        points = Points.of([view])
        near = matern(points.kernel, self._kernel, self._squares[0])[0]
        state = matern(points.state, self._state, self._squares[1])[0]
        word, weight = bag_of(view, self._idf)
        sums = near @ of.near
        sums += state @ of.state
        sums += of.linear @ points.linear[0]
        sums += of.table[:, word] @ weight
        at = self._applications.get(submission.application, -1)
        if at >= 0:
            members = self._members[at]
            alike = SAME_APPLICATION + KERNEL_IN_APPLICATION * near[members]
            sums += alike @ of.near[members] / np.float32(KERNEL)
        found = submission.static + of.offset.astype(np.float64) + sums
        learned = self._with_repeats(submission, float(found[0]))
        return Forecast(_bounded(learned), _bounded(float(found[1])) if len(found) > 1 else None)

    def _with_repeats(self, submission: Submission, predicted: float) -> float:
        if not submission.request:
            return predicted
        key = repeat_key(submission.llm, submission.request)
        repeats = self._numbers.repeats
        at = int(np.searchsorted(repeats, np.uint64(key)))
        if at == len(repeats) or int(repeats[at]) != key:
            return predicted
        return _REPEATED * float(self._numbers.repeated[at]) + (1 - _REPEATED) * predicted

    def _prepare(self, llm: int) -> _ForLLM:
        numbers = self._numbers
        same = (numbers.llm == llm) & (llm > 0)
        weights = numbers.weights * np.where(same, 1.0, OTHER_LLM).astype(np.float32)[:, None]
        table = np.zeros((numbers.weights.shape[1], BUCKETS), dtype=np.float32)
        table[:, numbers.words] = numbers.tables[llm]
        return _ForLLM(
            near=np.ascontiguousarray(weights * np.float32(KERNEL)),
            state=np.ascontiguousarray(weights * np.float32(STATE)),
            linear=numbers.linear[llm],
            offset=numbers.offset[llm],
            table=table,
        )

    def to_bytes(self) -> bytes:
        """Return the fit as bytes, about 0.4 kB for each job of the window."""
        arrays = {name: np.ascontiguousarray(a) for name, a in vars(self._numbers).items()}
        layout = {name: [a.dtype.str, list(a.shape)] for name, a in arrays.items()}
        head = json.dumps({"card": vars(self.card), "arrays": layout}).encode()
        return b"".join(
            [_MAGIC, _SIZE.pack(len(head)), head, *(a.tobytes() for a in arrays.values())]
        )

    @classmethod
    def from_bytes(cls, packed: bytes) -> Learned:
        """Read what `to_bytes` returned.

        Raises:
            ValueError: These are other bytes, or of another version of this package.
        """
        if not packed.startswith(_MAGIC):
            raise ValueError(f"{len(packed)} bytes are no fit of this version")
        try:
            at = len(_MAGIC) + _SIZE.size
            (size,) = _SIZE.unpack_from(packed, len(_MAGIC))
            head = json.loads(packed[at : at + size])
            at += size
            arrays: dict[str, NDArray[Any]] = {}
            for name, (kind, shape) in head["arrays"].items():
                dtype = np.dtype(kind)
                arrays[name] = np.frombuffer(packed, dtype, math.prod(shape), at).reshape(shape)
                at += arrays[name].nbytes
            card: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in head["card"].items()
            }
            return cls(LearnedCard(**card), LearnedNumbers(**arrays))
        except (struct.error, KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"{len(packed)} bytes are no fit of this version") from exc


def repeat_key(llm: str, request: str) -> int:
    """Return a number of 64 bits for an LLM and a request."""
    digest = hashlib.blake2b(f"{llm}\0{request}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _bounded(log_tokens: float) -> float:
    return round(min(max(log_tokens, _RANGE[0]), _RANGE[1]), _DIGITS)
