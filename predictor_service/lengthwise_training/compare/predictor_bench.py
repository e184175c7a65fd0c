"""Measures what a prediction costs on one core, beside BERT-base.

A prediction is timed from the string to the answer, without HTTP. All predictors take turns, one
round each, in one process pinned to one core, so that other load on the machine affects them alike.
The reported numbers are medians over the rounds. Called by `lengthwise bench predictor`.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from lengthwise_predictor.model import LengthModel
from lengthwise_training.backbones.devices import Device
from lengthwise_training.compare.bert_baseline import BERT_MOST_TOKENS, Bert, Call
from lengthwise_training.compare.model_names import names_of

#: Prompt lengths and batch sizes of the table.
TOKENS = (16, 64, 256, 1024)


BATCHES = (1, 8, 32)

#: Within a round, a cell is measured for this long at most, s.
_PATIENCE_S = 0.6


_WORDS = (
    "Explain to a new colleague how our billing system works and which reports they should read "
    "first, then list the questions that they ought to ask before they change anything at all. "
)

#: A call that takes longer than this, s, is made once: BERT on 32 long prompts takes half a minute.
_SLOW_S = 1.0


@dataclass
class Cell:
    """One predictor at one prompt length and batch size.

    Attributes:
        predictor: Its name.
        tokens: Of each prompt, by the bundled tokenizer.
        batch: Prompts of a call.
        times_ms: Of all calls, by round.
    """

    predictor: str
    tokens: int
    batch: int
    times_ms: list[list[float]] = field(default_factory=list)

    @property
    def slow(self) -> bool:
        """Whether one call of one round is enough."""
        return bool(self.times_ms) and self.times_ms[0][0] > _SLOW_S * 1000.0

    def as_row(self) -> dict[str, Any]:
        """Return p50 and p99 of a call, ms, and prompts a second: medians over the rounds."""
        p50 = statistics.median(statistics.median(r) for r in self.times_ms)
        every = [t for r in self.times_ms for t in r]
        return {
            "predictor": self.predictor,
            "tokens": self.tokens,
            "batch": self.batch,
            "p50_ms": p50,
            "p99_ms": float(np.quantile(every, 0.99)),
            "per_s": self.batch / p50 * 1000.0,
            "calls": len(every),
        }


def text_of(model: LengthModel, tokens: int) -> str:
    """Return a text of `tokens` tokens, or one or two fewer."""
    words = (_WORDS * (2 + tokens // 30)).split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if model.count_tokens(" ".join(words[:middle])) <= tokens:
            low = middle
        else:
            high = middle - 1
    return " ".join(words[:low])


def served_call(model: LengthModel, texts: Sequence[str]) -> Call:
    """Return a call that runs the model as serving runs a batch: from strings to predictions."""

    def call() -> object:
        rows = model.run([model.encode(text, "*") for text in texts])
        return [model.prediction(row) for row in rows]

    return call


@contextmanager
def one_core() -> Iterator[int | None]:
    """Pin this process to one of its cores, the last; yields its number, None where impossible."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, allowed)


def bench(
    models: Sequence[Path],
    *,
    tokens: Sequence[int] = TOKENS,
    batches: Sequence[int] = BATCHES,
    rounds: int = 5,
    calls: int = 40,
    bert: bool = True,
    device: Device = "cpu",
    on_step: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure the speed of models, and of BERT-base beside them; see the module.

    Args:
        models: Folders of models.
        tokens: Prompt lengths.
        batches: Batch sizes.
        rounds: Interleaved rounds.
        calls: Calls of a cell in a round, at most; a cell stops after 0.6 s, and a call that takes
            over a second is made once.
        bert: Whether BERT-base is measured beside them.
        device: Where all of them run. Texts are always tokenised on the core.
        on_step: Called with a description of the next measurement.

    Returns:
        `rows`, `ratios` at 256 tokens and batch 1, and `setting`.

    Raises:
        ModelUnusable: A model cannot be loaded, or not onto that device.
        DeviceAbsent: BERT-base cannot run on that device.
    """
    with tempfile.TemporaryDirectory() as scratch, one_core() as core:
        on_step("loading")
        cells: list[tuple[Cell, Call]] = []
        folders = list(dict.fromkeys(models))
        loaded = [LengthModel(d, provider=device, intra_op_threads=1) for d in folders]
        names = names_of([(d, m.card) for d, m in zip(folders, loaded, strict=True)])
        for name, model in zip(names, loaded, strict=True):
            model.warm_up(1)
            for count in tokens:
                text = text_of(model, count)
                cells += [
                    (Cell(name, count, size), served_call(model, [text] * size)) for size in batches
                ]
        notes = ["strings to predictions, without HTTP; BERT is timed without its tokenizer"]
        if bert:
            try:
                baseline = Bert(Path(scratch), device)
            except ImportError as exc:
                notes.append(f"BERT-base left out: {exc}; pip install 'lengthwise[train]'")
            else:
                notes.append(
                    "BERT-base has random weights, which compute as long as trained ones, and "
                    f"reads {BERT_MOST_TOKENS} tokens at most; its two ways differ by "
                    f"{baseline.difference:.1e}"
                )
                ways = {
                    "BERT-base, PyTorch": baseline.through_torch,
                    "BERT-base, ONNX Runtime": baseline.through_onnx,
                }
                cells += [
                    (Cell(way, count, size), make(count, size))
                    for way, make in ways.items()
                    for count in tokens
                    for size in batches
                ]
        for number in range(rounds):
            for cell, call in cells:
                if number and cell.slow:
                    continue
                on_step(f"round {number + 1}/{rounds}: {cell.predictor}, {cell.tokens} tokens")
                cell.times_ms.append(_timed(call, calls))
    rows = [cell.as_row() for cell, _ in cells]
    return {
        "rows": rows,
        "ratios": _ratios(rows, names),
        "setting": {
            "core": core,
            "threads": 1,
            "providers": {n: m.provider for n, m in zip(names, loaded, strict=True)},
            "rounds": rounds,
            "onnxruntime": ort.__version__,
            "notes": notes,
        },
    }


def _timed(call: Call, most: int) -> list[float]:
    began = time.perf_counter()
    call()  # not counted: it fills caches for the shapes of this cell
    first = time.perf_counter() - began
    if first > _SLOW_S:
        return [first * 1000.0]
    times: list[float] = []
    spent = 0.0
    while len(times) < 2 or (len(times) < most and spent < _PATIENCE_S):
        began = time.perf_counter()
        call()
        took = time.perf_counter() - began
        spent += took
        times.append(took * 1000.0)
    return times


def _ratios(rows: Sequence[dict[str, Any]], models: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return how many times faster each model is than each baseline, at 256 tokens and batch 1."""
    at = {r["predictor"]: r["p50_ms"] for r in rows if (r["tokens"], r["batch"]) == (256, 1)}
    baselines = [name for name in at if name not in models]
    return {
        m: {baseline: at[baseline] / at[m] for baseline in baselines} for m in models if m in at
    }
