"""The settings of a queue: people and workers write them at the same time, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import redis
from tests.queue_service.store.one_queue import Q, run

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_store.keys import PUBLISHED, QUEUES
from lengthwise_store.queues import Queue
from lengthwise_store.store import JobStore


async def queue_of(store: JobStore) -> Queue:
    found = await store.queue(Q)
    assert found is not None
    return found


def test_what_a_worker_published_survives_a_put(redis_url: str) -> None:
    # A PUT took the context length of the model away until the worker was restarted.
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings(max_depth=500))
        assert await store.publish_engine_facts(Q, "w", {"max_model_len": 4096, "kind": "vllm"})
        await store.put_queue(Q, QueueSettings(policy="fcfs"))
        queue = await queue_of(store)
        assert queue.settings == QueueSettings(policy="fcfs", max_model_len=4096)
        assert queue.published == {"max_model_len": 4096, "kind": "vllm"}
        assert queue.set_fields == {"policy"}

    run(body, redis_url)


def test_what_people_set_counts_before_what_a_worker_publishes(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings(max_model_len=1024))
        await store.publish_engine_facts(Q, "w", {"max_model_len": 4096})
        assert (await queue_of(store)).settings.max_model_len == 1024
        await store.patch_queue(Q, {"max_model_len": None})
        assert (await queue_of(store)).settings.max_model_len == 4096

    run(body, redis_url)


def test_a_published_fact_is_written_again_when_it_is_gone_and_only_then(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        assert not await store.publish_engine_facts(Q, "old", {"max_model_len": 1})
        await store.put_queue(Q, QueueSettings())
        assert await store.publish_engine_facts(Q, "old", {"max_model_len": 1})
        assert await store.publish_engine_facts(Q, "new", {"max_model_len": 2})
        assert await store.publish_engine_facts(Q, "old", {"max_model_len": 1})
        assert (await queue_of(store)).settings.max_model_len == 2
        with redis.Redis.from_url(redis_url) as raw:
            raw.delete(PUBLISHED)
        assert await store.publish_engine_facts(Q, "old", {"max_model_len": 1})
        assert (await queue_of(store)).settings.max_model_len == 1
        assert await store.publish_engine_facts(Q, "old", {"max_model_len": 3})
        assert (await queue_of(store)).settings.max_model_len == 3

    run(body, redis_url)


@pytest.mark.parametrize("facts", [{"max_model_len": "long"}, {"max_model_len": -1}, {}])
def test_a_fact_that_makes_no_sense_changes_no_setting(
    redis_url: str, facts: dict[str, object]
) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings())
        await store.publish_engine_facts(Q, "w", facts)
        assert (await queue_of(store)).settings == QueueSettings()

    run(body, redis_url)


def test_a_patch_merges_and_null_is_the_default(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        assert not await store.patch_queue(Q, {"max_depth": 7})
        await store.put_queue(Q, QueueSettings(max_depth=500, overtake_factor=1.5))
        await store.patch_queue(Q, {"max_wait_ms": 2000, "max_depth": None})
        queue = await queue_of(store)
        assert queue.settings == QueueSettings(overtake_factor=1.5, max_wait_ms=2000)
        assert queue.set_fields == {"overtake_factor", "max_wait_ms"}
        await store.patch_queue(Q, {"min_rank_accuracy": 0, "drift_window_ms": 0})
        queue = await queue_of(store)
        assert (queue.settings.min_rank_accuracy, queue.settings.drift_window_ms) == (None, None)
        wrongs: list[dict[str, Any]] = [{"max_depth": 0}, {"max_deptj": 5}, {"classes": []}]
        for wrong in wrongs:
            with pytest.raises(ValueError, match=r"max_dept|classes"):
                await store.patch_queue(Q, wrong)
        assert (await queue_of(store)) == queue

    run(body, redis_url)


def test_writers_at_the_same_time_lose_nothing(redis_url: str) -> None:
    # Each read the whole, changed a field, and wrote the whole: the last one won.
    changes = {
        "max_depth": 77,
        "max_wait_ms": 5000,
        "overtake_factor": 1.0,
        "record_ttl_ms": 60_000,
        "request_ttl_ms": 9000,
        "default_tokens": 9.0,
        "predictor_url": "http://p",
        "calibrate": False,
    }

    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings())
        others = [JobStore(redis_url) for _ in changes]
        for round_ in range(5):
            await store.put_queue(Q, QueueSettings())
            await asyncio.gather(
                *(
                    one.patch_queue(Q, {name: value})
                    for one, (name, value) in zip(others, changes.items(), strict=True)
                ),
                others[0].publish_engine_facts(Q, "w", {"max_model_len": 8192 + round_}),
            )
            want = QueueSettings.model_validate(changes | {"max_model_len": 8192 + round_})
            assert (await queue_of(store)).settings == want
        for one in others:
            await one.aclose()

    run(body, redis_url)


def test_the_policy_in_force_is_that_of_the_settings_after_a_race(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings())
        others = [JobStore(redis_url) for _ in range(6)]
        for _ in range(10):
            await asyncio.gather(
                *(
                    one.patch_queue(Q, {"policy": "sjf" if n % 2 else "fcfs"})
                    for n, one in enumerate(others)
                )
            )
            policy = (await queue_of(store)).settings.policy
            assert (await store.stats(Q)).active_policy == policy
        for one in others:
            await one.aclose()

    run(body, redis_url)


def test_a_field_of_a_newer_release_is_kept_by_every_writer(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        with redis.Redis.from_url(redis_url) as raw:
            newer = {"max_depth": 9, "a_field_of_tomorrow": {"deep": [1]}}
            raw.hset(QUEUES, Q, json.dumps(newer))
            await store.patch_queue(Q, {"policy": "fcfs"})
            await store.put_queue(Q, QueueSettings(max_depth=8))
            await store.publish_engine_facts(Q, "w", {"max_model_len": 1})
            await store.patch_queue(Q, {"max_wait_ms": 1000, "policy": None})
            kept = json.loads(raw.hget(QUEUES, Q) or "")
        want = {"a_field_of_tomorrow": {"deep": [1]}, "max_depth": 8, "max_wait_ms": 1000}
        assert kept == want

    run(body, redis_url)


def test_settings_of_an_older_release_are_read_and_a_default_of_theirs_stays(
    redis_url: str,
) -> None:
    async def body(store: JobStore) -> None:
        with redis.Redis.from_url(redis_url) as raw:
            raw.hset(QUEUES, Q, QueueSettings(min_rank_accuracy=None).model_dump_json())
        await store.publish_engine_facts(Q, "w", {"max_model_len": 4096})
        want = QueueSettings(min_rank_accuracy=None, max_model_len=4096)
        assert (await queue_of(store)).settings == want

    run(body, redis_url)


def test_a_queue_can_be_created_without_replacing_one(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        assert await store.put_queue(Q, QueueSettings(max_depth=7), only_new=True)
        assert not await store.put_queue(Q, QueueSettings(max_depth=8), only_new=True)
        assert (await queue_of(store)).settings.max_depth == 7

    run(body, redis_url)
