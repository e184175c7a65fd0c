"""When short-first is suspended, and when it is trusted again."""

from __future__ import annotations

import asyncio
import random

import pytest

from lengthwise_contract.api import Prediction, QueueSettings
from lengthwise_queue.accuracy import pair_accuracy
from lengthwise_queue.jobs import Accepted, NewJob, Outcome, OutcomeKind
from lengthwise_queue.queue_book import QueueBook
from lengthwise_queue.rank_watch import RankWatch, fallback_wanted
from lengthwise_queue.redis_store import RedisJobStore

SETTINGS = QueueSettings()


def answers(n: int, noise: float, seed: int = 1) -> list[tuple[float | None, int]]:
    """Predictions that are right (0), right on the whole (1), or drawn from a hat (9)."""
    rng = random.Random(seed)  # noqa: S311 - a reproducible stream
    actual = [int(rng.lognormvariate(5, 1)) + 1 for _ in range(n)]
    return [(a * rng.lognormvariate(0, noise), a) for a in actual]


@pytest.mark.parametrize(
    ("lengths", "fallback", "want"),
    [
        (answers(256, 0.0), False, False),
        (answers(256, 1.0), False, False),
        (answers(256, 9.0), False, True),
        ([(1 / a, a) for _, a in answers(256, 0.0)], False, True),
        (answers(63, 9.0), False, False),
        (answers(63, 0.0), True, True),
        ([(None, a) for _, a in answers(256, 0.0)], True, True),
        (answers(256, 1.0), True, False),
    ],
    ids=[
        "perfect",
        "noisy",
        "random",
        "reversed",
        "too few to condemn",
        "too few to acquit",
        "no predictions, no news",
        "recovered",
    ],
)
def test_short_first_is_suspended_while_its_predictions_are_useless(
    lengths: list[tuple[float | None, int]], fallback: bool, want: bool
) -> None:
    assert fallback_wanted(lengths, fallback=fallback, settings=SETTINGS) is want


def test_between_the_limit_and_its_margin_the_verdict_stays_as_it_is() -> None:
    lengths = answers(256, 2.75, seed=0)
    assert 0.6 < (pair_accuracy(lengths) or 0) < 0.63
    assert fallback_wanted(lengths, fallback=True, settings=SETTINGS)
    assert not fallback_wanted(lengths, fallback=False, settings=SETTINGS)


def test_a_queue_without_a_limit_never_falls_back() -> None:
    never = QueueSettings(min_rank_accuracy=None)
    assert not fallback_wanted(answers(256, 9.0), fallback=True, settings=never)


def test_reversed_predictions_end_in_order_of_acceptance_and_good_ones_end_that(
    redis_url: str,
) -> None:
    async def serve(store: RedisJobStore, first: int, predict: dict[int, float]) -> None:
        for i in range(260):
            actual = 10 + (i * 37) % 400
            said = float(predict.get(i, actual if predict == {} else 500 - actual))
            job = NewJob(
                id=f"{first + i:06}",
                endpoint="/v1/completions",
                body=b"{}",
                job_class="interactive",
                slack_ms=3 * said,
                predicted_tokens=said,
                predicted_ms=said,
                prediction=Prediction(
                    model_version="v",
                    p10_tokens=said / 2,
                    p50_tokens=said,
                    p90_tokens=said * 2,
                    mean_tokens=said,
                    rank_score=said,
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

    async def body() -> None:
        store = RedisJobStore(redis_url)
        try:
            await store.put_queue("q", SETTINGS)
            watch = RankWatch(store, QueueBook(store))
            await serve(store, 0, {0: 1.0})
            await watch.look()
            stats = await store.stats("q")
            assert (stats.fallback, stats.active_policy) == (True, "fcfs")
            assert stats.coverage is not None
            assert stats.coverage < 0.5
            await serve(store, 1000, {})
            await watch.look()
            stats = await store.stats("q")
            assert (stats.fallback, stats.active_policy) == (False, "sjf")
            assert stats.coverage == 1.0
        finally:
            await store.aclose()

    asyncio.run(body())
