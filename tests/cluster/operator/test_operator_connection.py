"""The connection of the operator to the API server: silent watches, and the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

if TYPE_CHECKING:
    from tests.cluster.operator.rig import Rig

pytestmark = [pytest.mark.kube, pytest.mark.timeout(400)]

Made = Callable[..., Any]


class Wire:
    """A TCP proxy that can become silent: connections stay open, but no byte passes.

    A lost NAT entry, or a load balancer that dropped a connection, has this effect. Only the
    connections that are open at that moment become silent; new ones work.
    """

    def __init__(self, host: str, port: int) -> None:
        self.swallowed_bytes = 0
        self._target = (host, port)
        self._silent_before = 0
        self._count = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Wire:
        self._thread.start()
        starting = asyncio.start_server(self._carry, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, *_: object) -> None:
        async def close() -> None:
            self._server.close()
            mine = asyncio.current_task()
            others = [task for task in asyncio.all_tasks() if task is not mine]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def become_silent(self) -> None:
        """Stop all bytes on the connections that are open now."""
        self._silent_before = self._count

    async def _carry(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        number, self._count = self._count, self._count + 1
        far, far_writer = await asyncio.open_connection(*self._target)

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                if number < self._silent_before:
                    self.swallowed_bytes += len(data)
                    continue
                writer.write(data)
                await writer.drain()

        pumps = [asyncio.ensure_future(p) for p in (pump(near, far_writer), pump(far, near_writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in pumps:
                task.cancel()
            for writer in (near_writer, far_writer):
                with contextlib.suppress(OSError):
                    writer.close()


@pytest.fixture
def wire(rig: Rig, tmp_path: Path) -> Iterator[Wire]:
    """Restart the operator with this proxy between it and the API server."""
    config = yaml.safe_load(Path(rig.kubeconfig).read_text())
    used = next(c for c in config["contexts"] if c["name"] == config["current-context"])
    cluster = next(c for c in config["clusters"] if c["name"] == used["context"]["cluster"])
    server = urlsplit(cluster["cluster"]["server"])
    with Wire(server.hostname or "", server.port or 443) as between:
        cluster["cluster"] = {
            "server": f"https://127.0.0.1:{between.port}",
            "insecure-skip-tls-verify": True,  # the certificate may not name this address
        }
        changed = tmp_path / "kubeconfig"
        changed.write_text(yaml.safe_dump(config))
        rig.stop_operator()
        rig.start_operator(KUBECONFIG=str(changed))
        try:
            yield between
        finally:
            rig.stop_operator()
            rig.start_operator()


def test_silent_watches_are_restarted_and_missed_changes_are_repaired(
    rig: Rig, made: Made, wire: Wire
) -> None:
    """Kopf #698, #955: without a time limit a silent watch lasts for ever, without an error."""
    made(rig.simulated("silent", replicas=0))
    rig.wait_reason("silent", "ScaledToZero")
    before = rig.kube.get("service", "silent-engine")["metadata"]["uid"]
    wire.become_silent()
    rig.kube("delete", "service", "silent-engine")
    # 70 s of silence end the watches (settings.watching.inactivity_timeout).
    rig.until(
        "the Service is created again",
        lambda: rig.kube.get("service", "silent-engine"),
        within_s=150,
    )
    assert wire.swallowed_bytes > 0, "the proxy held nothing back: the test proves nothing"
    assert rig.kube.get("service", "silent-engine")["metadata"]["uid"] != before
    assert rig.operator_alive()


def test_every_line_of_the_log_is_json_with_its_fields(rig: Rig) -> None:
    """The chart runs the operator with `--log-format=json`; `extra={...}` becomes fields."""
    log = rig.folder / "operator.log"

    def lines() -> list[dict[str, Any]]:
        whole = log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def warning() -> dict[str, Any] | None:
        return next((x for x in lines() if x["message"] == "queue service unreachable"), None)

    rig.stop_operator()
    rig.start_operator(LENGTHWISE_OPERATOR_QUEUE_URL="http://127.0.0.1:1")
    try:
        found = rig.until("a line about the queue service", warning)
    finally:
        rig.stop_operator()
        rig.start_operator()
    assert found["problem"]
    assert found["severity"] == "warn"
    assert all({"message", "severity", "timestamp"} <= line.keys() for line in lines())
