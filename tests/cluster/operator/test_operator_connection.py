"""Between the operator and the API server: watches that fall silent, and what the log says."""

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
    from tests.cluster.operator.conftest import Rig

pytestmark = [pytest.mark.kube, pytest.mark.timeout(400)]

Made = Callable[..., Any]


class Wire:
    """A TCP proxy that can fall silent: nothing is closed, and nothing passes any more.

    This is what a lost NAT entry or a load balancer that forgot a connection looks like. Only the
    connections of that moment are struck; new ones work.
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

    def fall_silent(self) -> None:
        """For all connections that are open now."""
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
    """The operator started anew, with this between it and the API server."""
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


def test_watches_that_fell_silent_are_begun_anew_and_what_was_missed_is_put_right(
    rig: Rig, made: Made, wire: Wire
) -> None:
    """Kopf #698, #955: without a limit a silent watch lasts for ever, and all looks well."""
    made(rig.simulated("silent", replicas=0))
    rig.wait_reason("silent", "ScaledToZero")
    before = rig.kube.get("service", "silent-engine")["metadata"]["uid"]
    wire.fall_silent()
    rig.kube("delete", "service", "silent-engine")
    # 70 s of silence end the watches (settings.watching.inactivity_timeout).
    rig.until(
        "the Service made anew",
        lambda: rig.kube.get("service", "silent-engine"),
        within_s=150,
    )
    assert wire.swallowed_bytes > 0, "the deletion was told to nobody: the test proves nothing"
    assert rig.kube.get("service", "silent-engine")["metadata"]["uid"] != before
    assert rig.operator_alive()


def test_every_line_of_the_log_is_json_with_its_fields(rig: Rig) -> None:
    """What `--log-format=json` makes of our `extra={...}`; the chart runs the operator so."""
    log = rig.folder / "operator.log"

    def lines() -> list[dict[str, Any]]:
        whole = log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def complaint() -> dict[str, Any] | None:
        return next((x for x in lines() if x["message"] == "queue service away"), None)

    rig.stop_operator()
    rig.start_operator(LENGTHWISE_OPERATOR_QUEUE_URL="http://127.0.0.1:1")  # nobody listens
    try:
        said = rig.until("a line about the queue service", complaint)
    finally:
        rig.stop_operator()
        rig.start_operator()
    assert said["problem"]
    assert said["severity"] == "warn"
    assert all({"message", "severity", "timestamp"} <= line.keys() for line in lines())
