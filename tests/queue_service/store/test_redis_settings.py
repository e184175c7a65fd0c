"""How a Redis URL is read, and that no repr, log or error contains a password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from lengthwise_queue.settings import Settings
from lengthwise_store.redis.connections import Connections
from lengthwise_store.redis.settings import Deployment, RedisAddress, Secret, Tls, TlsVerify

SECRET = "hunter2/@:%"
QUOTED = "hunter2%2F%40%3A%25"


@pytest.mark.parametrize(
    ("url", "want"),
    [
        pytest.param(
            "redis://h",
            {"deployment": Deployment.SINGLE, "hosts": (("h", 6379),), "db": 0},
            id="host",
        ),
        pytest.param("redis://h:1/7", {"hosts": (("h", 1),), "db": 7}, id="database"),
        pytest.param("redis://h?db=7", {"db": 7}, id="database as an option"),
        pytest.param("redis://[::1]:5/0", {"hosts": (("::1", 5),)}, id="IPv6"),
        pytest.param("redis://[::1]", {"hosts": (("::1", 6379),)}, id="IPv6 without a port"),
        pytest.param(
            "unix:///run/r.sock?db=2", {"socket": "/run/r.sock", "db": 2, "hosts": ()}, id="socket"
        ),
        pytest.param(
            f"redis://u:{QUOTED}@h",
            {"username": "u", "password": Secret(value=SECRET)},
            id="user and password",
        ),
        pytest.param(
            f"redis://:{QUOTED}@h",
            {"username": None, "password": Secret(value=SECRET)},
            id="password only",
        ),
        pytest.param("rediss://h", {"tls": Tls()}, id="TLS"),
        pytest.param(
            "rediss://h?ssl_cert_reqs=none", {"tls": Tls(verify=TlsVerify.NONE)}, id="not verified"
        ),
        pytest.param(
            "redis+sentinel://a:1,b/mymaster/3",
            {
                "deployment": Deployment.SENTINEL,
                "hosts": (("a", 1), ("b", 26379)),
                "service": "mymaster",
                "db": 3,
                "tls": None,
            },
            id="Sentinel",
        ),
        pytest.param(
            "rediss+cluster://a:1,b:2",
            {"deployment": Deployment.CLUSTER, "hosts": (("a", 1), ("b", 2)), "tls": Tls()},
            id="Cluster over TLS",
        ),
    ],
)
def test_a_url_is_read_as(url: str, want: dict[str, object]) -> None:
    address = RedisAddress.parse(url)
    assert {name: getattr(address, name) for name in want} == want


@pytest.mark.parametrize(
    ("url", "want"),
    [
        pytest.param(f"http://:{QUOTED}@h", "begins with redis://", id="scheme"),
        pytest.param("redis+sentinel://:hunter2@h", "mymaster", id="no service"),
        pytest.param("redis+cluster://:hunter2@h/1", "database 0", id="database of a Cluster"),
        pytest.param("redis://:hunter2@a,b", "redis\\+sentinel://", id="two hosts"),
        pytest.param("redis://:hunter2/x@h:6379/0", "%2F", id="unquoted slash"),
        pytest.param("redis://:hunter2@h/first", "not a number", id="database"),
        pytest.param("redis://:hunter2@h?sl=1", "no option 'sl'", id="unknown option"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str, want: str) -> None:
    with pytest.raises(ValueError, match=want) as raised:
        RedisAddress.parse(url)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ValidationError, match=want) as refused:
        Settings(redis_url=url)
    assert "hunter2" not in str(refused.value)


def test_the_other_arguments_override_the_url() -> None:
    address = RedisAddress.parse("redis://u:p@h", username="v", password=Secret(value="q"))
    assert (address.username, address.password.read()) == ("v", "q")


def test_a_password_file_is_read_again_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    settings = Settings(redis_url="redis://h", redis_password_file=file)
    password = settings.redis_address().password
    assert password.read() == "first"
    file.write_text("second")
    assert password.read() == "second"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"redis_url": f"redis://u:{QUOTED}@127.0.0.1:1"}, id="in the URL"),
        pytest.param(
            {"redis_url": "redis://127.0.0.1:1", "redis_password": SECRET}, id="beside it"
        ),
        pytest.param(
            {
                "redis_url": f"redis+sentinel://u:{QUOTED}@127.0.0.1:1/m",
                "redis_sentinel_password": SECRET,
            },
            id="of the Sentinels",
        ),
    ],
)
def test_no_text_of_an_object_has_a_password(fields: dict[str, Any]) -> None:
    settings = Settings(**fields)
    address = settings.redis_address()
    connections = Connections(address, connect_timeout_s=1, command_timeout_s=1)
    client = connections.of("k")
    texts = [settings, address, connections, client, client.connection_pool, connections._sentinel]
    for text in [f"{one!r} {one!s}" for one in texts]:
        assert "hunter2" not in text


def test_two_sources_of_one_password_are_refused() -> None:
    with pytest.raises(ValidationError, match="not both"):
        Settings(redis_password=SecretStr("a"), redis_password_file=Path("b"))
