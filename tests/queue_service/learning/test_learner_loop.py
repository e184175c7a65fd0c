"""The loop that learns: donors, another LLM, the lease of another replica, odd evidence."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine

import numpy as np
from tests.queue_service.store import one_queue
from tests.queue_service.store.one_queue import OK, accept, claim_one

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.request_view import RequestView
from lengthwise_queue.learning.forecaster import Forecaster
from lengthwise_queue.learning.learner import Learner
from lengthwise_queue.learning.submissions import Names, submission_of
from lengthwise_queue.scheduling.snapshot import QueueCache
from lengthwise_store.keys import QueueKeys
from lengthwise_store.learning.store import LearningStore
from lengthwise_store.prediction_record import Basis, LearnedPrediction
from lengthwise_store.store import JobStore

NAMES = Names(b"k" * 16)


def prediction(number: int) -> Prediction:
    rng = np.random.default_rng(number)
    numbers = rng.normal(size=12).astype("<f2")
    words = np.sort(rng.integers(0, 400, size=20)).astype("<u2")
    view = RequestView(
        basis=1, widths=(1, 3, 2, 2, 2, 2), numbers=numbers.tobytes(), words=words.tobytes()
    )
    return Prediction(
        model_version="v", p10_tokens=5, p50_tokens=9, p90_tokens=20, mean_tokens=10,
        rank_score=2.2, view=view.to_text(),
    )  # fmt: skip


async def finish_some(store: JobStore, count: int) -> None:
    """Finish jobs of the queue `one_queue.Q`, each of which is evidence."""
    for number in range(count):
        made = prediction(number)
        names = NAMES.request("t", instructions="", text=f"t {number}", asked=[number], facts={})
        submission = submission_of(made, names, "llm", b"k" * 16)
        assert submission is not None
        await accept(
            store, f"{number:04}", prediction=made, basis=Basis(learning=LearnedPrediction()),
            submission=submission.pack(),
        )  # fmt: skip
        done = dataclasses.replace(OK, output_tokens=10 + 7 * number)
        await store.finish(one_queue.Q, (await claim_one(store)).lease, done, worker_id="w1")


def with_learner(
    url: str, test: Callable[[JobStore, LearningStore, Learner], Awaitable[None]]
) -> None:
    async def body() -> None:
        store = JobStore(url)
        learning = LearningStore(store.client)
        tasks: list[asyncio.Task[None]] = []

        def start(work: Coroutine[object, object, None]) -> None:
            tasks.append(asyncio.create_task(work))

        forecaster = Forecaster(learning, key=b"k" * 16, start=start)
        try:
            await store.put_queue(one_queue.Q, QueueSettings())
            await test(store, learning, Learner(store, learning, QueueCache(store), forecaster))
            await asyncio.gather(*tasks)
        finally:
            await store.aclose()

    asyncio.run(body())


def test_a_queue_without_jobs_begins_with_those_of_the_other_queues(redis_url: str) -> None:
    async def test(store: JobStore, learning: LearningStore, learner: Learner) -> None:
        await finish_some(store, 40)
        await store.put_queue("new", QueueSettings())
        await store.put_queue("readable", QueueSettings(keep_words="readable"))
        await store.put_queue("off", QueueSettings(learning="off"))
        await learner.check()
        own = await learning.learned(one_queue.Q)
        borrowed = await learning.learned("new")
        assert own is not None
        assert borrowed is not None
        assert (own[0].finished, borrowed[0].finished, borrowed[0].samples) == (40, 0, 40)
        assert await learning.learned("readable") is None
        assert await learning.learned("off") is None

    with_learner(redis_url, test)


def test_another_revision_of_the_llm_is_judged_anew_and_its_evidence_stays(redis_url: str) -> None:
    async def test(store: JobStore, learning: LearningStore, learner: Learner) -> None:
        await finish_some(store, 40)
        await learner.check()
        await learning.serve(one_queue.Q, "learned")
        await store.put_queue(one_queue.Q, QueueSettings(llm="org/m@2"))
        await learner.check()
        stats = await store.stats(one_queue.Q)
        assert (stats.serving, stats.judged_from) == ("static", 40)
        assert stats.counters["evidence"] == 40

    with_learner(redis_url, test)


def test_a_replica_without_the_lease_does_not_learn_and_evidence_of_no_use_is_no_error(
    redis_url: str,
) -> None:
    async def test(store: JobStore, learning: LearningStore, learner: Learner) -> None:
        await finish_some(store, 34)
        await store.client.lpush(QueueKeys(one_queue.Q).evidence, b"odd", b"id 5 0 odd")
        assert await learning.acquire(one_queue.Q, "another", 60_000)
        await learner.check()
        assert await learning.learned(one_queue.Q) is None
        await learning.release(one_queue.Q, "another")
        await learner.check()
        found = await learning.learned(one_queue.Q)
        assert found is not None
        assert found[0].samples == 32  # the two odd entries are the newest of 34

    with_learner(redis_url, test)
