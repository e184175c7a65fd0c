"""What a job's record keeps of its prediction, and what returns with its answer."""

from __future__ import annotations

import asyncio
import random

import pytest

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_store.codec.prediction import write_quantiles
from lengthwise_store.jobs import Accepted, NewJob, Outcome, OutcomeKind
from lengthwise_store.prediction_record import Basis, predictor_tag
from lengthwise_store.store import JobStore

PREDICTION = Prediction(
    model_version="bundled 2026-11-21",
    p10_tokens=52.3125,
    p50_tokens=312.41,
    p90_tokens=891.02,
    mean_tokens=401.33,
    rank_score=5.743812,
)
BASIS = Basis(calibrated=(48.251, 300.09, 850.4), max_tokens=2048, answers=1, shape=(71, 26))


def test_an_answer_returns_with_its_prediction_and_its_calibrated_quantiles(
    redis_url: str,
) -> None:
    async def body() -> None:
        store = JobStore(redis_url)
        try:
            await store.put_queue("q", QueueSettings())
            job = NewJob(
                id="1",
                endpoint="/v1/completions",
                body=b"{}",
                job_class="interactive",
                slack_ms=0,
                predicted_tokens=300.0,
                predicted_ms=300,
                prediction=PREDICTION,
                basis=BASIS,
                max_attempts=1,
                delay_ms=0,
                ttl_ms=60_000,
                max_depth=10,
            )
            assert isinstance(await store.submit("q", job), Accepted)
            kept = await store.get("q", "1")
            assert kept is not None
            assert kept.prediction is not None
            assert kept.prediction.model_version == PREDICTION.model_version
            assert kept.prediction.p50_tokens == pytest.approx(PREDICTION.p50_tokens, rel=1e-3)
            assert kept.prediction.rank_score == pytest.approx(PREDICTION.rank_score, rel=1e-3)
            assert kept.basis.calibrated == pytest.approx(BASIS.calibrated, rel=1e-3)
            [claim] = await store.claim("q", worker_id="w", count=1)
            done = Outcome(kind=OutcomeKind.OK, output_tokens=2048, service_ms=9.0)
            await store.finish("q", claim.lease, done, worker_id="w")
            [answer] = (await store.stats("q")).answers
            assert (answer.tokens, answer.priced, answer.was_cut) == (2048, 300.0, True)
            assert answer.predictor == predictor_tag(PREDICTION.model_version)
            assert answer.calibrated == pytest.approx(BASIS.calibrated, rel=1e-3)
            assert answer.raw == pytest.approx((52.3125, 312.41, 891.02), rel=1e-3)
            assert (answer.shape, answer.count) == ((71, 26), 1)
        finally:
            await store.aclose()

    asyncio.run(body())


def test_the_record_stays_in_the_short_form_of_redis_hashes() -> None:
    # Above 64 bytes a value costs the hash its compact form, and three times the memory.
    rng = random.Random(1)  # noqa: S311 - a reproducible stream
    longest = 0
    for _ in range(2000):
        middle = min(rng.lognormvariate(5.5, 1), 9000.0)
        prediction = Prediction(
            model_version="v",
            p10_tokens=middle / 3,
            p50_tokens=middle,
            p90_tokens=min(middle * 3, 9999.0),
            mean_tokens=middle * 1.1,
            rank_score=rng.gauss(5.5, 1),
        )
        basis = Basis(
            calibrated=(middle / 4, middle / 1.1, middle * 1.1), max_tokens=4096, shape=(97, 60)
        )
        longest = max(longest, len(write_quantiles(prediction, basis)[0]))
    assert 40 < longest <= 64
