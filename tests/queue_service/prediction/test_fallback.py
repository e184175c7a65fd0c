"""When `sjf` is suspended, and when it resumes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.api.views import queue_view
from lengthwise_queue.background.fallback_controller import FallbackController
from lengthwise_queue.prediction.accuracy import coverage
from lengthwise_queue.prediction.quality import fallback_wanted, rank_accuracy, recent
from lengthwise_queue.scheduling.snapshot import QueueCache
from lengthwise_store.codec.queues import read_stats
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Accepted, NewJob, Outcome, OutcomeKind
from lengthwise_store.prediction_record import MeasuredAnswer
from lengthwise_store.queues import QueueStats
from lengthwise_store.store import JobStore

SETTINGS = QueueSettings()


def answer(predicted: float | None, actual: int) -> MeasuredAnswer:
    raw = None if predicted is None else (predicted / 2, predicted, predicted * 2)
    return MeasuredAnswer(tokens=actual, priced=predicted, raw=raw, calibrated=raw)


def answers(n: int, noise: float, seed: int = 1) -> list[MeasuredAnswer]:
    """Answers whose predictions are right (noise 0), mostly right (1) or random (9)."""
    rng = random.Random(seed)  # noqa: S311 - a reproducible stream
    actual = [int(rng.lognormvariate(5, 1)) + 1 for _ in range(n)]
    return [answer(a * rng.lognormvariate(0, noise), a) for a in actual]


def reversed_(n: int) -> list[MeasuredAnswer]:
    return [answer(1e5 / a.tokens, a.tokens) for a in answers(n, 0.0)]


def alike(n: int) -> list[MeasuredAnswer]:
    """The front of a long queue under `sjf`: all predictions are about equal."""
    rng = random.Random(1)  # noqa: S311
    return [answer(100 * rng.uniform(1, 1.3), rng.randint(20, 400)) for _ in range(n)]


@pytest.mark.parametrize(
    ("seen", "fallback", "want"),
    [
        (answers(256, 0.0), False, False),
        (answers(256, 1.0), False, False),
        (answers(256, 9.0), False, True),
        (reversed_(256), False, True),
        (reversed_(32), False, True),
        (reversed_(31), False, False),
        (reversed_(40) + answers(216, 0.0), False, True),
        (alike(256), False, False),
        (answers(63, 0.0), True, True),
        (answers(96, 0.0), True, False),
        ([answer(None, a.tokens) for a in answers(256, 0.0)], True, True),
        (answers(256, 1.0), True, False),
        (answers(256, 9.0), True, True),
    ],
    ids=[
        "perfect",
        "noisy",
        "random",
        "reversed",
        "reversed, and detected after 32 answers",
        "too few to suspend",
        "reversed only recently",
        "alike, which no predictor could order",
        "too few to resume",
        "recovered beyond doubt",
        "no predictions, no change",
        "recovered",
        "still random",
    ],
)
def test_sjf_is_suspended_while_its_predictions_are_degraded(
    seen: list[MeasuredAnswer], fallback: bool, want: bool
) -> None:
    assert fallback_wanted(seen, fallback=fallback, settings=SETTINGS) is want


def test_between_the_limit_and_its_margin_the_judgement_does_not_change() -> None:
    seen = next(
        seen
        for seen in (answers(256, 3.0, seed) for seed in range(100))
        if 0.605 < (rank_accuracy(seen) or 0) < 0.63
        and not fallback_wanted(seen, fallback=False, settings=SETTINGS)
    )
    assert fallback_wanted(seen, fallback=True, settings=SETTINGS)


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_a_good_predictor_is_not_suspended_and_a_reversed_one_always_is(seed: int) -> None:
    assert fallback_wanted(reversed_(64), fallback=False, settings=SETTINGS)
    assert not fallback_wanted(answers(256, 0.7, seed), fallback=False, settings=SETTINGS)


def test_a_queue_without_a_limit_never_falls_back() -> None:
    never = QueueSettings(min_rank_accuracy=None)
    assert not fallback_wanted(answers(256, 9.0), fallback=True, settings=never)


async def serve(store: JobStore, first: int, predict: dict[int, float], count: int = 260) -> None:
    """Answer jobs whose predictions are right (`predict` empty) or reversed."""
    for i in range(count):
        actual = 10 + (i * 37) % 400
        tokens = float(predict.get(i, actual if predict == {} else 500 - actual))
        job = NewJob(
            id=f"{first + i:06}",
            endpoint="/v1/completions",
            body=b"{}",
            job_class="interactive",
            slack_ms=3 * tokens,
            predicted_tokens=tokens,
            predicted_ms=tokens,
            prediction=Prediction(
                model_version="v",
                p10_tokens=tokens / 2,
                p50_tokens=tokens,
                p90_tokens=tokens * 2,
                mean_tokens=tokens,
                rank_score=tokens,
            ),
            max_attempts=1,
            delay_ms=0,
            ttl_ms=60_000,
            max_depth=1000,
        )
        assert isinstance(await store.submit("q", job), Accepted)
        [claim] = await store.claim("q", worker_id="w", count=1)
        done = Outcome(kind=OutcomeKind.OK, output_tokens=actual, service_ms=actual)
        await store.finish("q", claim.lease, done, worker_id="w")


@pytest.mark.slow
def test_reversed_predictions_suspend_sjf_and_good_ones_resume_it(
    redis_url: str,
) -> None:
    def covered(stats: QueueStats) -> float | None:
        return coverage((a.raw, a) for a in stats.answers if a.raw is not None)

    async def body() -> None:
        store = JobStore(redis_url)
        try:
            await store.put_queue("q", SETTINGS)
            controller = FallbackController(store, QueueCache(store))
            await serve(store, 0, {0: 1.0})
            await controller.check()
            stats = await store.stats("q")
            assert (stats.fallback, stats.active_policy) == (True, "fcfs")
            assert (covered(stats) or 1) < 0.5
            # Answers that were judged are not judged again: ten good ones change nothing.
            await serve(store, 900, {}, count=10)
            await controller.check()
            assert (await store.stats("q")).fallback
            await serve(store, 1000, {})
            await controller.check()
            stats = await store.stats("q")
            assert (stats.fallback, stats.active_policy) == (False, "sjf")
            assert covered(stats) == 1.0
        finally:
            await store.aclose()

    asyncio.run(body())


def test_a_blip_of_redis_delays_a_fallback_by_one_check_and_no_more(redis_url: str) -> None:
    # The answers were marked as judged before the fallback was stored. After an error, nothing
    # happened until another answer came.
    class Blips(JobStore):
        away = True

        async def _send(self, pipeline: Any, calls: Any) -> list[Any]:
            if self.away and any(name == "govern" for name, _, _ in calls):
                raise StoreUnavailable("Redis is away for a moment.")
            return await super()._send(pipeline, calls)

    async def body() -> None:
        store, steady = Blips(redis_url), JobStore(redis_url)
        try:
            await steady.put_queue("q", SETTINGS)
            await serve(steady, 0, {0: 1.0})
            controller = FallbackController(store, QueueCache(store))
            with pytest.raises(StoreUnavailable):
                await controller.check()
            assert (await steady.stats("q")).judged_at == 0
            store.away = False
            await controller.check()
            stats = await steady.stats("q")
            assert (stats.fallback, stats.judged_at > 0) == (True, True)
        finally:
            await store.aclose()
            await steady.aclose()

    asyncio.run(body())


@pytest.mark.slow
def test_answers_older_than_the_drift_window_neither_suspend_nor_resume(redis_url: str) -> None:
    hour_ms = 3_600_000

    async def body() -> None:
        store = JobStore(redis_url)
        try:
            await store.put_queue("q", SETTINGS)
            start_ms = 1_700_000_000_000.0
            controller = FallbackController(store, QueueCache(store))
            store.now_ms = start_ms
            await serve(store, 0, {0: 1.0})  # reversed, but not checked then
            store.now_ms = start_ms + 2 * hour_ms
            await serve(store, 500, {}, count=20)  # too few to judge
            await controller.check()
            assert not (await store.stats("q")).fallback
            await store.put_queue("q", SETTINGS.model_copy(update={"drift_window_ms": None}))
            await serve(store, 600, {}, count=1)
            await controller.check()
            stats = await store.stats("q")
            assert stats.fallback  # without a window, answers of any age count
            assert stats.answers[0].at_s == (start_ms + 2 * hour_ms) / 1000
            await store.put_queue("q", SETTINGS)
            await serve(store, 700, {})  # good ones, but not checked then
            store.now_ms = start_ms + 4 * hour_ms
            await serve(store, 1000, {0: 1.0}, count=20)
            await controller.check()
            assert (await store.stats("q")).fallback
            view = queue_view(next(iter(await QueueCache(store).read_all())))
            assert view.prediction_quality == "degraded"
            assert view.coverage is not None  # of the last twenty answers only
        finally:
            await store.aclose()

    asyncio.run(body())


def test_answers_of_an_unknown_age_count() -> None:
    # Versions before the drift window wrote entries without an age.
    stats = read_stats(
        [b"1700000000000.0", 0, 0, 0, [], b"", [b"10 12 100 5 10 20 14 10"] * 3, [], [], []]
    )
    assert [a.at_s for a in stats.answers] == [None] * 3
    assert len(recent(stats, SETTINGS)) == 3
