"""The store on a real Cluster: three primaries, and one of them dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import RedisError

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_store.batches.batch import BatchStatus, LineResult, OpenLine, Place
from lengthwise_store.batches.store import BatchStore
from lengthwise_store.errors import NotConfirmed, StoreUnavailable
from lengthwise_store.files.store import BLOCK_BYTES, FileLimits, FileStore
from lengthwise_store.keys import QueueKeys
from lengthwise_store.learning.store import LearningStore
from lengthwise_store.prediction_record import FitRecord
from lengthwise_store.queues import QueueBusy
from lengthwise_store.redis.durability import Durability
from lengthwise_store.responses.record import ResponseRecord
from lengthwise_store.responses.store import ResponseStore
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

if TYPE_CHECKING:
    from tests.faults.conftest import QueueRig, Servers

On = Callable[..., None]


@pytest.mark.slow
def test_what_queues_learn_is_kept_beside_each_of_them_on_a_cluster(
    servers: Servers, on: On
) -> None:
    _, url = servers.cluster()

    async def body(rig: QueueRig) -> None:
        learning = LearningStore(rig.store.client)
        fit = FitRecord(id="f", finished=1, samples=1, took_ms=1.0, made_ms=1.0)
        assert await learning.key() == await learning.key()
        for queue in ("one", "two", "three"):  # in different slots
            assert await learning.acquire(queue, "replica", 5000)
            await learning.begin(queue, words="w", llm="l", judged_from=0)
            await learning.publish(queue, fit, b"learned")
            await learning.serve(queue, "learned")
            assert await learning.learned(queue) == (fit, b"learned")
            assert (await learning.state(queue)).words == "w"
            assert await learning.evidence(queue, 10) == []
            await learning.forget(queue)
            assert await learning.learned(queue) is None
            assert await rig.store.client.exists(QueueKeys(queue).learned) == 0
            await learning.release(queue, "replica")

    on(url, body)


@pytest.mark.slow
def test_a_queues_whole_life_works_on_a_cluster(servers: Servers, on: On) -> None:
    _, url = servers.cluster()

    async def body(rig: QueueRig) -> None:
        store, q = rig.store, rig.queue
        await store.check()
        first = await rig.submit(idempotency_key="k", fingerprint="f")
        again = await store.submit(q, rig.new(idempotency_key="k", fingerprint="f"))
        assert again.id == first  # type: ignore[union-attr]
        later = await rig.submit(delay_ms=60_000)
        position = await store.position(q, first)
        assert position is not None
        assert position.ahead == 0
        assert [job.id for job in (await store.snapshot(q, 10)).waiting] == [first]
        assert await store.wait_for_work(q, 5) is True
        reader = asyncio.create_task(store.wait_output(q, first, timeout_s=10))
        [claim] = await store.claim(q, worker_id="w", count=5)
        await store.beat(q, worker=rig.view, leases=[claim.lease])
        await store.emit(q, claim.lease, [b"one"])
        assert [entry.data for entry in await reader] == [b"one"]
        hints: list[str] = []
        while not hints:  # the first calls subscribe
            assert await store.cancel(q, first) is JobState.RUNNING
            hints = await store.cancellations(q, 0.1)
        assert set(hints) == {first}
        ended = await store.finish(q, claim.lease, rig.ok, worker_id="w", claim_next=1)
        assert ended.state is JobState.CANCELLED
        assert await store.cancel(q, later) is JobState.CANCELLED
        await store.tick(q)
        assert {job.id for job in (await store.jobs(q, "default")).jobs} == {first, later}
        assert (await store.stats(q)).counters["cancelled"] == 2

    on(url, body)


@pytest.mark.slow
def test_a_queue_is_configured_filled_and_removed_on_a_cluster(servers: Servers, on: On) -> None:
    nodes, url = servers.cluster()

    async def body(rig: QueueRig) -> None:
        store, q = rig.store, rig.queue
        await store.put_queue(q, QueueSettings(max_depth=5000))
        assert await store.publish_engine_facts(q, "w", {"max_model_len": 9})
        assert await store.patch_queue(q, {"max_wait_ms": 1000})
        queue = await store.queue(q)
        assert queue is not None
        assert queue.settings == QueueSettings(max_depth=5000, max_wait_ms=1000, max_model_len=9)
        await rig.submit()
        [claim] = await store.claim(q, worker_id="w", count=1)
        pieces = [b"%d" % n for n in range(9000)]
        await store.emit(q, claim.lease, pieces)
        ended = await store.finish(q, claim.lease, rig.ok, chunks=pieces, worker_id="w")
        assert ended.state is JobState.SUCCEEDED
        await rig.submit()
        assert isinstance(await store.remove_queue(q), QueueBusy)
        assert await store.remove_queue(q, force=True) is None
        assert await store.queues() == []

    on(url, body)
    keys = {key for node in nodes for key in node.ask("KEYS", "*") if node.ask("PTTL", key) == -1}
    assert keys == set()


@pytest.mark.slow
def test_queues_on_different_nodes_are_one_system(servers: Servers, on: On) -> None:
    nodes, url = servers.cluster()
    names = [f"model-{i}" for i in range(12)]

    async def body(rig: QueueRig) -> None:
        ids = {}
        for name in names:
            await rig.store.put_queue(name, QueueSettings())
            rig.queue = name
            ids[name] = await rig.submit()
        assert {q.name for q in await rig.store.queues()} >= set(names)
        for name in names:
            found = await rig.store.find(ids[name])
            assert found is not None
            assert found.queue == name
        assert await rig.store.find("unknown") is None
        for name in names:
            rig.queue = name
            assert await rig.serve() == [ids[name]]

    on(url, body)
    assert all(node.ask("DBSIZE") > 0 for node in nodes)


@pytest.mark.slow
def test_a_cluster_whose_primary_dies_continues_with_its_replica(
    servers: Servers, on: On, wait_for: Callable[..., Any]
) -> None:
    nodes, url = servers.cluster(replicas=3)

    async def body(rig: QueueRig) -> None:
        await rig.submit()
        owner = next(n for n in nodes[:3] if n.ask("KEYS", f"lw:{{{rig.queue}}}:job:*"))
        replica = nodes[nodes.index(owner) + 3]
        owner.ask("WAIT", 1, 1000)
        wait_for(lambda: replica.ask("DBSIZE") == owner.ask("DBSIZE"), "the replica has it")
        waiting = asyncio.create_task(rig.store.wait_for_work("other", 30))
        owner.kill()
        with pytest.raises(StoreUnavailable):
            await rig.submit()
        await rig.comes_back(rig.submit)
        served: list[str] = []
        while len(served) < 2:
            served += await rig.comes_back(rig.serve)
        assert await rig.comes_back(lambda: rig.store.find(served[0])) is not None
        waiting.cancel()
        await asyncio.wait({waiting})

    on(url, body)


@pytest.mark.slow
def test_a_queue_that_is_moved_to_another_node_is_found_there(servers: Servers, on: On) -> None:
    nodes, url = servers.cluster()

    async def body(rig: QueueRig) -> None:
        job = await rig.submit()
        source = next(n for n in nodes if n.ask("KEYS", f"lw:{{{rig.queue}}}:job:*"))
        target = next(n for n in nodes if n is not source)
        slot = source.ask("CLUSTER", "KEYSLOT", f"lw:{{{rig.queue}}}:x")
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        half = len(keys) // 2
        move = ("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS")
        source.ask(*move, *keys[:half])
        with pytest.raises(StoreUnavailable):  # the keys are on two nodes: no script can run
            await rig.serve()
        source.ask(*move, *keys[half:])
        owner = target.ask("CLUSTER", "MYID")
        for node in (target, source, *(n for n in nodes if n not in (source, target))):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", owner)
        assert await rig.comes_back(rig.serve) == [job]

    on(url, body)


@pytest.mark.slow
def test_files_batches_and_responses_work_on_a_cluster(servers: Servers, on: On) -> None:
    _, url = servers.cluster()
    limits = FileLimits(tenant_bytes=2**24, total_bytes=2**24, ttl_ms=60_000)

    async def body(rig: QueueRig) -> None:
        client = rig.store.client
        files = FileStore(client, limits)
        for number in range(6):  # each in another slot
            writer = files.writer(tenant="t", filename=f"f{number}", purpose="batch", ttl_ms=60_000)
            await writer.write(b"a" * (BLOCK_BYTES + 1))
            file = await writer.commit()
            assert await files.get("t", file.id) == file
            assert sum([len(block) async for block in files.read(file)]) == BLOCK_BYTES + 1
        found, more = await files.page("t", purpose=None, after=None, limit=10, order="desc")
        assert (len(found), more) == (6, False)
        assert await files.drop(found[0].id, found[0].content)

        batches = BatchStore(client, ttl_ms=60_000, lease_ms=1000)
        assert await batches.create(
            "batch_1",
            tenant="t",
            endpoint="/v1/completions",
            input_file_id="f",
            metadata=None,
            window_ms=60_000,
            output_ttl_ms=60_000,
            max_body_bytes=10_000,
        )
        assert await batches.take() == "batch_1"
        _, batch = await batches.acquire("batch_1", "a")
        assert batch is not None
        assert await batches.move(batch, "a", BatchStatus.IN_PROGRESS, total=1)
        batch = await batches.get("t", "batch_1")
        assert batch is not None
        one = OpenLine(place=Place(1, 0, 0), custom_id="one")
        await batches.open(batch, "a", Place(2, 0, 10), [one])
        done = LineResult(line=1, file="out", text=b"x", input_tokens=1, output_tokens=1)
        assert await batches.write_results(batch, "a", [done]) == (1, 0)
        await batches.beat("batch_1", "a")
        assert [b.id for b in (await batches.page("t", after=None, limit=5))[0]] == ["batch_1"]
        await batches.end("batch_1")

        responses = ResponseStore(client)
        record = ResponseRecord(
            id="resp_1",
            job_id="j",
            queue="q",
            tenant="t",
            created_ms=1,
            background=True,
            echo={},
            items=[],
            earlier=[],
        )
        await responses.put(record, 60_000)
        assert await responses.get("t", "resp_1") == record
        await responses.drop("resp_1")

    on(url, body)


@pytest.mark.slow
def test_each_node_of_a_cluster_confirms_what_was_written_there(servers: Servers, on: On) -> None:
    nodes, url = servers.cluster(appendonly="yes", appendfsync="always")
    nodes[0].needs_waitaof()

    async def body(rig: QueueRig) -> None:
        await rig.store.check()
        for name in ("model-1", "model-2", "model-3", "model-4"):
            rig.queue = name
            await rig.store.put_queue(name, QueueSettings())
            await rig.submit()
        keys = [f"lw:files:{{file-{n}}}:content" for n in range(20)]
        await rig.store.confirm(*keys)
        for node in nodes:
            node.ask("CONFIG", "SET", "appendonly", "no")
        with pytest.raises(NotConfirmed):
            await rig.submit()
        with pytest.raises(NotConfirmed):
            await rig.store.confirm(*keys)

    on(url, body, StoreSettings(durability=Durability.ALWAYS))


@pytest.mark.slow
def test_a_store_that_is_closed_while_a_node_is_away_leaves_no_connection_open(
    servers: Servers, wait_for: Callable[..., Any]
) -> None:
    # After a failed command the client counts as not connected, and its aclose closed nothing.
    nodes, url = servers.cluster()

    async def body() -> JobStore:
        store = JobStore(url)
        await store.check()
        await store.queues()
        everywhere = [f"lw:files:{{file-{n}}}:content" for n in range(20)]
        await asyncio.gather(*(store.client.get(key) for key in everywhere))
        nodes[2].kill()
        asked = [store.client.get(key) for key in everywhere]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        lost = [k for k, a in zip(everywhere, answers, strict=True) if isinstance(a, RedisError)]
        with pytest.raises(RedisError):
            await store.client.get(lost[0])
        await store.aclose()
        return store

    store = asyncio.run(body())  # keep the client: its destructor would close the connections
    wait_for(
        lambda: all(len(node.ask("CLIENT", "LIST").splitlines()) == 1 for node in nodes[:2]),
        "only the asking client is connected",
    )
    del store
