"""TLS with certificates made here, and a user with only the documented rights."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import trustme

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.chaos.system.proxy import Proxy
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.redis.settings import RedisAddress, Secret, Tls, TlsVerify
from lengthwise_store.store import JobStore

if TYPE_CHECKING:
    from tests.faults.conftest import QueueRig, Servers

On = Callable[..., None]

ROOT = Path(__file__).parents[2]


def documented() -> list[str]:
    """The ACL line of docs/operate/redis.md, in words."""
    page = (ROOT / "docs/operate/redis.md").read_text()
    found = re.search(r"^ACL SETUSER .*$", page, re.MULTILINE)
    assert found is not None
    return found[0].replace(">PASSWORD", ">hunter2").split()


# ------------------------------------------------------------------------------- ACL


def test_the_documented_user_can_do_all_that_a_queue_needs_and_nothing_else(
    servers: Servers, on: On
) -> None:
    server = servers.start(appendonly="yes")
    since_7_2 = () if server.has_waitaof else ("+client|setinfo", "+waitaof")
    server.ask(*(word for word in documented() if word not in since_7_2))
    address = RedisAddress.parse(
        server.url, username="lengthwise", password=Secret(value="hunter2")
    )

    async def body(rig: QueueRig) -> None:
        store, q = rig.store, rig.queue
        await store.check()
        first = await rig.submit(idempotency_key="k", requests_per_minute=100)
        await rig.submit(delay_ms=60_000)
        reader = asyncio.create_task(store.wait_output(q, first, timeout_s=10))
        assert await store.wait_for_work(q, 5) is True
        await store.cancellations(q, 0.1)
        await store.position(q, first)
        await store.snapshot(q, 10)
        await store.jobs(q, "default")
        await store.waiting_lengths(q)
        assert await rig.serve() == [first]
        assert await reader
        failing = await rig.submit()
        [claim] = await store.claim(q, worker_id="w", count=1)
        await store.beat(q, worker=rig.view, leases=[claim.lease])
        await store.finish(q, claim.lease, rig.failure, worker_id="w")
        await store.dead(q, ["default"])
        await store.redrive(q, failing)
        await store.cancel(q, failing)
        await store.tick(q)
        await store.stats(q)
        await store.find(first)
        await store.queues()

    on(address, body)
    denied = {entry["object"] for entry in server.ask("ACL", "LOG")}
    assert denied <= {"config|get"}, "commands that the documentation does not allow"
    with redis.Redis(port=server.port, username="lengthwise", password="hunter2") as client:
        for command in ("FLUSHALL", "KEYS *", "CONFIG SET save x", "GET other", "ACL LIST"):
            with pytest.raises(redis.ResponseError, match=r"[Nn]o permissions"):
                client.execute_command(*command.split())


def test_every_command_of_every_script_is_in_the_documented_acl() -> None:
    allowed = {word[1:] for word in documented() if word.startswith("+")}
    scripts = list((ROOT / "queue_service/lengthwise_store").rglob("*.lua"))
    assert {script.parent.parent.name for script in scripts} >= {"batches", "files", "lua"}
    code = "\n".join(script.read_text() for script in scripts)
    # `on_many` runs the command that its caller names.
    called = re.findall(r'\b(?:redis\.p?call|on_many)\("([A-Z]+)"', code)
    calls = re.findall(r"\b(?:redis\.p?call|on_many)\b(?!\(command\b)", code)
    assert len(called) == len(calls) > 100
    assert {name.lower() for name in called} - allowed == set()


def test_a_wrong_password_is_unavailable_and_is_not_repeated(servers: Servers) -> None:
    server = servers.start()
    server.ask("ACL", "SETUSER", "u", "on", ">right", "~*", "+@all")

    async def body() -> None:
        address = RedisAddress.parse(server.url, username="u", password=Secret(value="hunter2"))
        store = JobStore(address)
        with pytest.raises(StoreUnavailable, match="refused the credentials") as raised:
            await store.queues()
        assert "hunter2" not in f"{raised.value!r} {raised.value.__cause__!r}"
        await store.aclose()

    asyncio.run(body())


def test_a_rotated_password_is_used_without_a_restart(
    servers: Servers, on: On, tmp_path: Path
) -> None:
    server = servers.start()
    server.ask("ACL", "SETUSER", "u", "on", ">old", "~*", "&*", "+@all")
    file = tmp_path / "password"
    file.write_text("old\n")
    address = RedisAddress.parse(server.url, username="u", password=Secret(file=file))

    async def body(rig: QueueRig) -> None:
        await rig.submit()
        server.ask("ACL", "SETUSER", "u", "resetpass", ">new")
        file.write_text("new\n")
        server.ask("CLIENT", "KILL", "USER", "u")
        await rig.comes_back(rig.submit)

    on(address, body)


# ------------------------------------------------------------------------------- TLS


class TlsEnd:
    """The TLS side of a server, because the test server's binary is built without TLS."""

    def __init__(self, port: int, tmp_path: Path, name: str = "127.0.0.1") -> None:
        self._target = port
        self.ca, folder = trustme.CA(), tmp_path
        self.ca_file, self.cert_file = folder / "ca.pem", folder / "client.pem"
        self.key_file = folder / "client.key"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        mine = self.ca.issue_cert("client.example")
        mine.cert_chain_pems[0].write_to_path(str(self.cert_file))
        mine.private_key_pem.write_to_path(str(self.key_file))
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(name).configure_cert(self._context)
        self.ca.configure_trust(self._context)
        self._context.verify_mode = ssl.CERT_REQUIRED

    async def listen(self) -> str:
        """Start to listen, and return the URL."""
        self._proxy = Proxy(self._target, tls=self._context)
        await self._proxy.start()
        return f"rediss://127.0.0.1:{self._proxy.port}/0"

    async def aclose(self) -> None:
        await self._proxy.aclose()

    def tls(self, **changes: Any) -> Tls:
        files = {
            "ca_file": self.ca_file,
            "cert_file": self.cert_file,
            "key_file": self.key_file,
        }
        return Tls(**(files | changes))


async def works(end: TlsEnd, tls: Tls) -> bool:
    store = JobStore(RedisAddress.parse(await end.listen(), tls=tls))
    try:
        await store.put_queue("m", QueueSettings())
        return [q.name for q in await store.queues()] == ["m"]
    except StoreUnavailable:
        return False
    finally:
        await store.aclose()
        await end.aclose()


@pytest.mark.slow
def test_tls_with_a_private_ca_and_a_client_certificate(servers: Servers, tmp_path: Path) -> None:
    end = TlsEnd(servers.start().port, tmp_path)
    assert asyncio.run(works(end, end.tls()))


@pytest.mark.parametrize(
    ("name", "changes", "want"),
    [
        pytest.param("127.0.0.1", {"ca_file": None}, False, id="unknown issuer"),
        pytest.param(
            "127.0.0.1", {"cert_file": None, "key_file": None}, False, id="no client certificate"
        ),
        pytest.param("other.example", {}, False, id="another name"),
        pytest.param("other.example", {"verify": TlsVerify.CA}, True, id="name not compared"),
        pytest.param(
            "other.example", {"ca_file": None, "verify": TlsVerify.NONE}, True, id="not verified"
        ),
    ],
)
def test_a_certificate_is_verified_as_far_as_the_setting_requires(
    servers: Servers, tmp_path: Path, name: str, changes: dict[str, Any], want: bool
) -> None:
    end = TlsEnd(servers.start().port, tmp_path, name)
    assert asyncio.run(works(end, end.tls(**changes))) is want
