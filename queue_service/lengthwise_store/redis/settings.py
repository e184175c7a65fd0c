"""The settings of the connection to Redis, and the address that a URL gives.

The `Settings` of the queue service and of the worker inherit `RedisSettings`, each under its own
prefix: `LENGTHWISE_QUEUE_REDIS_URL`, `LENGTHWISE_WORKER_REDIS_URL` and so on.
docs/operate/redis.md explains each. connections.py reads the `RedisAddress`. No password is in the
text of one of these objects, or in the message of an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from lengthwise_contract.defaults import DURABILITY_REPLICAS, DURABILITY_TIMEOUT_MS
from lengthwise_store.redis.durability import Durability

_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_DEFAULT_PORTS = {"sentinel": 26379}


class TlsVerify(StrEnum):
    """The verification of a server's certificate."""

    FULL = "full"  #: Its issuer, and that it names the host.
    CA = "ca"  #: Its issuer only: for addresses that no certificate names, as those of pods.
    NONE = "none"  #: Nothing: anyone on the path can read and change everything.


class Deployment(StrEnum):
    """The deployment of Redis, which decides how the primary is found."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A user's password: its value, or a file that is read again for every new connection.

    So a password that is rotated in a mounted Kubernetes Secret is used without a restart.
    """

    value: str | None = field(default=None, repr=False)
    file: Path | None = None

    def read(self) -> str | None:
        """Return the current password; None: there is none.

        Raises:
            OSError: The file cannot be read.
        """
        if self.file is not None:
            return self.file.read_text(encoding="utf-8").rstrip("\r\n")
        return self.value


@dataclass(frozen=True, kw_only=True)
class Tls:
    """The TLS settings: files in PEM, and what is verified."""

    ca_file: Path | None = None  #: None: the system's.
    cert_file: Path | None = None  #: The client's certificate, if the server asks for one.
    key_file: Path | None = None
    verify: TlsVerify = TlsVerify.FULL


@dataclass(frozen=True, kw_only=True)
class RedisAddress:
    """One Redis, with the user to log in as. `RedisAddress.parse` makes it from a URL.

    `redis://`, `rediss://` (TLS) and `unix://` are one server. `redis+sentinel://` is the primary
    that Sentinels name, `redis+cluster://` a Cluster; `rediss+...` uses TLS.
    """

    deployment: Deployment
    hosts: tuple[tuple[str, int], ...] = ()  #: The server, or the Sentinels, or Cluster nodes.
    socket: str | None = None  #: Path of a Unix socket, instead of hosts.
    service: str = ""  #: The Sentinels' name of the primary.
    db: int = 0
    username: str | None = None
    password: Secret = Secret()
    sentinel_username: str | None = None
    sentinel_password: Secret = Secret()
    tls: Tls | None = None

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        username: str | None = None,
        password: Secret | None = None,
        sentinel_username: str | None = None,
        sentinel_password: Secret | None = None,
        tls: Tls | None = None,
    ) -> RedisAddress:
        """Read a URL; the other arguments override its parts.

        Args:
            url: `scheme://[user[:password]@]host[:port][,host...][/path][?option=...]`. The path
                is the database, of Sentinel `/service/database`, of `unix` the socket's. Options:
                db, and ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs (required or none).
            username: The ACL user; None: the URL's, else the user "default".
            password: That user's.
            sentinel_username: The user at the Sentinels.
            sentinel_password: That user's; None: the Sentinels ask for none.
            tls: None: the URL's; used by the schemes that begin with `rediss` only.

        Raises:
            ValueError: The URL cannot be read; the message has no password.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise ValueError(
                f"a Redis URL begins with {', '.join(s + '://' for s in _SCHEMES)}, and this one "
                f"with {parts.scheme[:20]!r}"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        credentials, _, places = parts.netloc.rpartition("@")
        name, _, secret = credentials.partition(":")
        base, _, kind = parts.scheme.partition("+")
        path, socket, service = unquote(parts.path).strip("/"), None, ""
        if parts.scheme == "unix":
            socket, path = unquote(parts.path), ""
        elif kind == Deployment.SENTINEL:
            service, _, path = path.partition("/")
            if not service:
                raise ValueError(
                    "a Sentinel URL names the primary: redis+sentinel://host:26379/mymaster/0"
                )
        db = _number(options.pop("db", path or "0"), "the database")
        if kind == Deployment.CLUSTER and db != 0:
            raise ValueError(f"a Redis Cluster has database 0 only, and the URL asks for {db}")
        default_port = _DEFAULT_PORTS.get(kind, 6379)
        in_url = Tls(
            ca_file=_path(options.pop("ssl_ca_certs", None)),
            cert_file=_path(options.pop("ssl_certfile", None)),
            key_file=_path(options.pop("ssl_keyfile", None)),
            verify=_verify(options),
        )
        if options:
            raise ValueError(f"a Redis URL has no option {sorted(options)[0]!r}")
        given = password if password is not None and password != Secret() else None
        return cls(
            deployment=Deployment(kind or Deployment.SINGLE),
            hosts=() if socket else _hosts(places, default_port, many=bool(kind)),
            socket=socket,
            service=service,
            db=db,
            username=username or unquote(name) or None,
            password=given or Secret(value=unquote(secret) or None),
            sentinel_username=sentinel_username,
            sentinel_password=sentinel_password or Secret(),
            tls=(tls or in_url) if base == "rediss" else None,
        )

    def __str__(self) -> str:
        """The address for logs: no user, no password."""
        if self.socket is not None:
            return f"unix://{self.socket}"
        scheme = "rediss" if self.tls else "redis"
        scheme += "" if self.deployment is Deployment.SINGLE else f"+{self.deployment}"
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{scheme}://{hosts}/{self.service + '/' if self.service else ''}{self.db}"


def _hosts(places: str, default_port: int, *, many: bool) -> tuple[tuple[str, int], ...]:
    hosts = []
    for place in places.split(","):
        host, _, port = place.rpartition(":")
        if not host or (place.startswith("[") and place.endswith("]")):
            host, port = place, str(default_port)
        hosts.append((unquote(host).strip("[]") or "localhost", _number(port, "a port")))
    if len(hosts) > 1 and not many:
        raise ValueError(
            "a redis:// URL has one host; for several use redis+sentinel:// or redis+cluster://"
        )
    return tuple(hosts)


def _number(text: str, what: str) -> int:
    # The text is not repeated: of a URL with an unquoted "/" in its password it is the password.
    if not text.isascii() or not text.isdigit():
        raise ValueError(
            f"{what} in the Redis URL is not a number; in a password write / as %2F and @ as %40"
        )
    return int(text)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _verify(options: dict[str, str]) -> TlsVerify:
    wanted = options.pop("ssl_cert_reqs", "required")
    if wanted not in ("required", "none"):
        raise ValueError("ssl_cert_reqs in the Redis URL must be required or none")
    if options.pop("ssl_check_hostname", "true").lower() in ("false", "0", "no"):
        return TlsVerify.NONE if wanted == "none" else TlsVerify.CA
    return TlsVerify.NONE if wanted == "none" else TlsVerify.FULL


class RedisSettings(BaseSettings):
    """The connection settings, the same for the queue service and the worker."""

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        repr=False,  # it may hold a password
        description="URL of the Redis or Valkey that stores all data",
    )
    redis_username: str | None = Field(default=None, description="ACL user; null: the URL's")
    redis_password: SecretStr | None = Field(default=None, description="That user's password")
    redis_password_file: Path | None = Field(
        default=None, description="A file with that password, read again for each new connection"
    )
    redis_sentinel_username: str | None = Field(
        default=None, description="ACL user at the Sentinels; null: default"
    )
    redis_sentinel_password: SecretStr | None = Field(
        default=None, description="That user's password; null: the Sentinels require none"
    )
    redis_sentinel_password_file: Path | None = Field(
        default=None, description="A file with that password"
    )
    redis_tls_ca_file: Path | None = Field(
        default=None, description="CA certificates to trust, PEM; null: the system's"
    )
    redis_tls_cert_file: Path | None = Field(
        default=None, description="The client certificate, PEM"
    )
    redis_tls_key_file: Path | None = Field(default=None, description="Its key, PEM")
    redis_tls_verify: TlsVerify = Field(
        default=TlsVerify.FULL, description="full, ca (do not compare the host's name) or none"
    )
    durability: Durability = Field(
        default=Durability.ASYNC, description="async, replica or always; docs/operate/guarantees.md"
    )
    durability_replicas: int = Field(
        default=DURABILITY_REPLICAS,
        ge=1,
        le=16,
        description="replica: this many replicas must confirm",
    )
    durability_timeout_ms: int = Field(
        default=DURABILITY_TIMEOUT_MS,
        ge=1,
        le=4000,
        description="Longest wait for that confirmation, ms",
    )

    @model_validator(mode="after")
    def _redis_can_be_reached(self) -> Self:
        if self.redis_password is not None and self.redis_password_file is not None:
            raise ValueError("give `redis_password` or `redis_password_file`, not both")
        if (self.redis_tls_cert_file is None) != (self.redis_tls_key_file is None):
            raise ValueError("give `redis_tls_cert_file` and `redis_tls_key_file`, or neither")
        self.redis_address()
        return self

    def redis_address(self) -> RedisAddress:
        """Return where Redis is, with the user to log in as.

        Raises:
            ValueError: The URL cannot be read.
        """
        tls = Tls(
            ca_file=self.redis_tls_ca_file,
            cert_file=self.redis_tls_cert_file,
            key_file=self.redis_tls_key_file,
            verify=self.redis_tls_verify,
        )
        return RedisAddress.parse(
            self.redis_url,
            username=self.redis_username,
            password=_secret(self.redis_password, self.redis_password_file),
            sentinel_username=self.redis_sentinel_username,
            sentinel_password=_secret(
                self.redis_sentinel_password, self.redis_sentinel_password_file
            ),
            tls=None if tls == Tls() else tls,
        )


def _secret(value: SecretStr | None, file: Path | None) -> Secret:
    return Secret(value=value.get_secret_value() if value is not None else None, file=file)
