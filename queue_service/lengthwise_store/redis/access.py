"""How to reach Redis, and as whom: a URL and what does not belong into one. Pure.

`redis://`, `rediss://` (TLS) and `unix://` are one server. `redis+sentinel://` is the primary that
Sentinels name, `redis+cluster://` a Cluster; with `rediss+` in front, over TLS. Made by the
settings of the queue service and of the worker, read by connection.py. No password ever stands in
the text of one of these objects, nor in the message of an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

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
    """What is checked of a server's certificate."""

    FULL = "full"  #: Its issuer and that it names the host.
    CA = "ca"  #: Its issuer only: for addresses that no certificate names, as pods have.
    NONE = "none"  #: Nothing: whoever sits in between can read and write everything.


class Kind(StrEnum):
    """Who says where the primary is."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A user's password, given or in a file, which is read again for every new connection.

    So a password that is rotated in a mounted Kubernetes Secret is taken up without a restart.
    """

    value: str | None = field(default=None, repr=False)
    file: Path | None = None

    def read(self) -> str | None:
        """The password now; None: there is none.

        Raises:
            OSError: The file cannot be read.
        """
        if self.file is not None:
            return self.file.read_text(encoding="utf-8").rstrip("\r\n")
        return self.value


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files in PEM, and what is verified."""

    ca_file: Path | None = None  #: None: the system's.
    cert_file: Path | None = None  #: Our own certificate, if the server asks for one.
    key_file: Path | None = None
    verify: TlsVerify = TlsVerify.FULL


@dataclass(frozen=True, kw_only=True)
class Access:
    """One Redis and who we are there. `Access.parse` makes it from a URL."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()  #: The server, or the Sentinels, or Cluster nodes.
    socket: str | None = None  #: Path of a Unix socket, in place of hosts.
    service: str = ""  #: What the Sentinels call the primary.
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
    ) -> Access:
        """Read a URL; what is given beside it wins over what stands in it.

        Args:
            url: `scheme://[user[:password]@]host[:port][,host...][/path][?option=...]`. The path
                is the database, of Sentinel `/service/database`, of `unix` the socket's. Options:
                db, and ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs (required or none).
            username: Of an ACL; None: the URL's, else the user "default".
            password: That user's.
            sentinel_username: Who we are to the Sentinels.
            sentinel_password: That user's; None: the Sentinels ask for none.
            tls: None: the URL's; used by the schemes with two s only.

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
        elif kind == Kind.SENTINEL:
            service, _, path = path.partition("/")
            if not service:
                raise ValueError(
                    "a Sentinel URL names the primary: redis+sentinel://host:26379/mymaster/0"
                )
        db = _number(options.pop("db", path or "0"), "the database")
        if kind == Kind.CLUSTER and db != 0:
            raise ValueError(f"a Redis Cluster has database 0 only, and the URL says {db}")
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
            kind=Kind(kind or Kind.SINGLE),
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
        """Where it is, for logs: no user, no password."""
        if self.socket is not None:
            return f"unix://{self.socket}"
        scheme = "rediss" if self.tls else "redis"
        scheme += "" if self.kind is Kind.SINGLE else f"+{self.kind}"
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
            "a redis:// URL has one host; with several say redis+sentinel:// or redis+cluster://"
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
