"""The store behind real Sentinels: the primary dies, is cut off, or is replaced."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_contract.states import JobState

if TYPE_CHECKING:
    from tests.faults.conftest import QueueRig, Servers

On = Callable[..., None]


@pytest.mark.slow
def test_commands_blocking_reads_and_pubsub_follow_a_failover(
    servers: Servers, on: On, wait_for: Callable[..., Any]
) -> None:
    primary, replica = servers.pair()
    url = servers.sentinels(primary)

    async def body(rig: QueueRig) -> None:
        store, q = rig.store, rig.queue
        job = await rig.submit()
        wait_for(lambda: replica.ask("EXISTS", f"lw:{{{q}}}:job:{job}"), "it is replicated")
        [claim] = await store.claim(q, worker_id="w", count=1)
        wait_for(lambda: replica.ask("HGET", f"lw:{{{q}}}:job:{job}", "nonce"), "so is the claim")
        reader = asyncio.create_task(store.wait_output(q, job, timeout_s=60))
        asking = asyncio.create_task(store.wait_for_work(q, 60))
        hints = asyncio.create_task(store.cancellations(q, 0.2))
        await asyncio.sleep(0.1)  # all three are blocked in Redis, which nothing reports
        primary.kill()
        await rig.comes_back(lambda: store.emit(q, claim.lease, [b"after"]))
        assert replica.ask("ROLE")[0] == "master"
        assert [entry.data for entry in await reader] == [b"after"]
        await asyncio.wait({asking, hints})
        asking.exception()
        hints.exception()
        # The blocking wait and the hints work on the new primary.
        await rig.submit()
        assert await rig.comes_back(lambda: store.wait_for_work(q, 5)) is True

        async def hinted() -> list[str]:
            await store.cancel(q, job)
            return await store.cancellations(q, 0.1)

        async with asyncio.timeout(20):
            while job not in await rig.comes_back(hinted):
                pass
        ended = await store.finish(q, claim.lease, rig.ok, worker_id="w")
        assert ended.state is JobState.CANCELLED

    on(url, body)


@pytest.mark.slow
def test_a_primary_that_is_replaced_while_it_hangs_is_left(servers: Servers, on: On) -> None:
    primary, replica = servers.pair()
    url = servers.sentinels(primary)

    async def body(rig: QueueRig) -> None:
        await rig.submit()
        # It keeps the connections open and sends nothing: no error shows that it is gone.
        primary.send(signal.SIGSTOP)
        after = await rig.comes_back(rig.submit)
        assert replica.ask("ROLE")[0] == "master"
        primary.send(signal.SIGCONT)
        assert after in await rig.comes_back(lambda: rig.serve(5))

    on(url, body)


@pytest.mark.slow
def test_without_any_sentinel_connected_clients_continue(servers: Servers, on: On) -> None:
    primary, _ = servers.pair()
    url = servers.sentinels(primary, count=1)

    async def body(rig: QueueRig) -> None:
        store = rig.store
        await rig.submit()
        servers._all[-1].kill()
        blocked = asyncio.create_task(store.wait_for_work("other", 3))
        for _ in range(30):
            await rig.submit()
            await asyncio.sleep(0.1)  # time passes: the pool checks its primary meanwhile
        assert await blocked is False
        assert len(await rig.serve(31)) == 31

    on(url, body)


# Sometimes a failover ended in "unclosed Connection": one task reordered the client's list of
# Sentinels while another iterated over it, and one Sentinel was lost.
@pytest.mark.slow
def test_tasks_that_ask_at_once_while_a_sentinel_is_down_lose_no_sentinel(
    servers: Servers, on: On
) -> None:
    primary, _ = servers.pair()
    url = servers.sentinels(primary)
    asked_first = next(server for server in servers._all if f":{server.port}," in url)

    async def body(rig: QueueRig) -> None:
        manager = rig.store._connections._sentinel
        assert manager is not None
        known = list(manager.sentinels)
        asked_first.kill()
        asked = await asyncio.gather(*(manager.discover_master("mymaster") for _ in range(20)))
        assert set(asked) == {("127.0.0.1", primary.port)}
        assert manager.sentinels == known
        assert len(set(known)) == 3

    on(url, body)
