"""Compare static batches in order of arrival with sequence batches, on a real model.

It runs the worker's own engine in this process, without a queue. Called by `lengthwise bench
sequence`.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise_lab.errors import LabError
from lengthwise_store.jobs import Claim, Lease
from lengthwise_worker.batching import BatchingMode
from lengthwise_worker.engines.base import EngineResponse
from lengthwise_worker.engines.transformers.batch_planner import BatchPlanner
from lengthwise_worker.engines.transformers.engine import TransformersEngine

if TYPE_CHECKING:
    from lengthwise_worker.engines.transformers.decoder import StaticDecoder


class NoModel(LabError):
    """The model cannot be loaded; the message says why."""


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """The result of one variant. `effective`: share of the computed token slots that are answers.

    `failures`: how often an answer reached the cap of a batch, divided by the answers. `ratio`:
    throughput as a multiple of the first variant's. `cpu_ratio`: the same by CPU seconds of the
    process, which do not depend on the load of the machine.
    """

    name: str
    seconds: float
    answers_per_s: float
    tokens_per_s: float
    effective: float
    failures: float
    batches: int
    steps: int
    prefilled: int
    output_tokens: int
    cpu_seconds: float
    ratio: float = 1.0
    cpu_ratio: float = 1.0


@dataclass(frozen=True, kw_only=True)
class _Variant:
    name: str
    mode: BatchingMode
    leave: bool  #: Whether finished answers leave a batch.
    predictions: str


#: The first is plain static batching, which the publications measure.
_VARIANTS = (
    _Variant(name="static", mode=BatchingMode.STATIC, leave=False, predictions="uninformative"),
    _Variant(name="sequence, exact", mode=BatchingMode.SEQUENCE, leave=False, predictions="exact"),
    _Variant(name="sequence, noisy", mode=BatchingMode.SEQUENCE, leave=False, predictions="noisy"),
    _Variant(
        name="sequence, uninformative",
        mode=BatchingMode.SEQUENCE,
        leave=False,
        predictions="uninformative",
    ),
    _Variant(
        name="static, finished rows leave",
        mode=BatchingMode.STATIC,
        leave=True,
        predictions="uninformative",
    ),
    _Variant(
        name="sequence, noisy, finished rows leave",
        mode=BatchingMode.SEQUENCE,
        leave=True,
        predictions="noisy",
    ),
)

#: Standard deviation of the log of a noisy prediction: a mean error of some 40 % of the length,
#: about that of the bundled predictor.
_NOISE = 0.5


def load(model: Path, *, threads: int) -> StaticDecoder:
    """Load a model.

    Raises:
        NoModel: It cannot be loaded, or PyTorch is missing.
    """
    try:
        from lengthwise_worker.engines.transformers.decoder import StaticDecoder
    except ImportError as exc:
        raise NoModel(
            "this needs PyTorch and transformers: pip install 'lengthwise[transformers]'"
        ) from exc
    try:
        return StaticDecoder(model, threads=threads)
    except (OSError, ValueError) as exc:
        raise NoModel(f"there is no causal LM at {model}: {exc}") from exc


def measure(
    decoder: StaticDecoder,
    bodies: Sequence[Mapping[str, Any]],
    *,
    batch: int,
    quantile: float,
    seed: int,
    on_variant: Callable[[str], None] = lambda _: None,
) -> list[VariantResult]:
    """Serve the same requests with every variant, one after the other.

    The memory is the same for all: that of the largest batch of the first variant if all its
    answers reach their limit. Exact predictions are the lengths that the first variant measured.

    Args:
        decoder: From `load`.
        bodies: Chat bodies, with `max_tokens`.
        batch: Answers of a static batch.
        quantile: Quantile of the lengths for the caps of sequence batches.
        seed: Seed of the noise.
        on_variant: Called with the name of each variant when it starts.
    """
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    prompts = [_prompt_tokens(decoder, body) for body in bodies]
    limits = [int(body["max_tokens"]) for body in bodies]
    memory_tokens = batch * (max(prompts) + max(limits))
    _serve(decoder, bodies[:2], [1.0] * 2, _planner(BatchingMode.STATIC, batch, memory_tokens, 0.5))
    lengths: list[int] = []
    found: list[VariantResult] = []
    for variant in _VARIANTS:
        on_variant(variant.name)
        predictions = _predictions(variant.predictions, lengths, limits, rng)
        largest = batch if variant.mode is BatchingMode.STATIC else len(bodies)
        decoder.leave = variant.leave
        decoder.work = type(decoder.work)()
        start_s, cpu_start_s = time.monotonic(), time.process_time()
        answers, failed = _serve(
            decoder, bodies, predictions, _planner(variant.mode, largest, memory_tokens, quantile)
        )
        seconds, work = time.monotonic() - start_s, decoder.work
        cpu_seconds = time.process_time() - cpu_start_s
        tokens = [answer.output_tokens or 0 for answer in answers]
        lengths = lengths or tokens
        found.append(
            VariantResult(
                name=variant.name,
                seconds=seconds,
                answers_per_s=len(bodies) / seconds,
                tokens_per_s=sum(tokens) / seconds,
                effective=sum(tokens) / work.computed,
                failures=failed / len(bodies),
                batches=work.batches,
                steps=work.steps,
                prefilled=work.prefilled,
                output_tokens=sum(tokens),
                cpu_seconds=cpu_seconds,
                ratio=found[0].seconds / seconds if found else 1.0,
                cpu_ratio=found[0].cpu_seconds / cpu_seconds if found else 1.0,
            )
        )
    return found


def as_json(measured: Sequence[VariantResult], **settings: Any) -> dict[str, Any]:
    """Return the results with their settings, for `--json`."""
    return {"settings": settings, "ways": [asdict(one) for one in measured]}


def _planner(mode: BatchingMode, largest: int, memory_tokens: int, quantile: float) -> BatchPlanner:
    return BatchPlanner(
        mode=mode, largest=largest, memory_tokens=memory_tokens, quantile=quantile, wait_s=0.5
    )


def _predictions(
    kind: str, lengths: Sequence[int], limits: Sequence[int], rng: random.Random
) -> list[float]:
    if kind == "exact":
        return [float(max(1, length)) for length in lengths]
    if kind == "noisy":
        return [max(1.0, length * math.exp(rng.gauss(0, _NOISE))) for length in lengths]
    return [limit / 2 for limit in limits]


def _prompt_tokens(decoder: StaticDecoder, body: Mapping[str, Any]) -> int:
    text = decoder.tokenizer.apply_chat_template(
        body["messages"], tokenize=False, add_generation_prompt=True
    )
    return len(decoder.tokenizer(text, add_special_tokens=False).input_ids)


def _serve(
    decoder: StaticDecoder,
    bodies: Sequence[Mapping[str, Any]],
    predictions: Sequence[float],
    planner: BatchPlanner,
) -> tuple[list[EngineResponse], int]:
    """Return the answers, and how often one reached a cap."""

    async def serve() -> tuple[list[EngineResponse], int]:
        engine = TransformersEngine(
            model_path=None, alias="bench", planner=planner, decoder=decoder
        )
        await engine.start()
        try:
            calls = [
                engine.answer(_claim(at, body, predicted), lambda _: None)
                for at, (body, predicted) in enumerate(zip(bodies, predictions, strict=True))
            ]
            return list(await asyncio.gather(*calls)), engine.capped
        finally:
            await engine.aclose()

    return asyncio.run(serve())


def _claim(number: int, body: Mapping[str, Any], predicted: float) -> Claim:
    return Claim(
        lease=Lease(job_id=f"{number}", nonce="", attempt=1),
        endpoint="/v1/chat/completions",
        body=json.dumps(dict(body) | {"stream": True}).encode(),
        due_ms=0.0,
        predicted_tokens=predicted,
        deadline_ms=0.0,
    )
