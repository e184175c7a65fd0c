"""The tenants in force: read from the tenants file or the environment, and kept current.

The content of the file is read periodically. Its times are of no use, because Kubernetes mounts a
Secret as a link and swaps the link; and change notifications do not work on network file systems.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from lengthwise_queue.errors import WrongKey
from lengthwise_queue.settings import Settings
from lengthwise_queue.tenants import keys as api_keys
from lengthwise_queue.tenants.keys import KeyRing
from lengthwise_queue.tenants.tenant import EVERYONE, HASH_PREFIX, MAX_FILE, Tenant, read_tenants

log = logging.getLogger(__name__)

#: The pause between two reads of the file, s. (A kubelet takes up to a minute to update a Secret.)
READ_EVERY_S = 1.0


class TenantRegistry:
    """Finds the tenant of a key or of a name.

    Args:
        settings: Of the process: `tenants_file`, or `api_key`, or neither (the open mode).

    Raises:
        ValueError: The file or the key is invalid. At the start there is no older version to keep,
            and the open mode would be the wrong fallback.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = settings.tenants_file
        self._seen = b""  #: The content at the last read, valid or not.
        self._in_force = b""
        self._ring = KeyRing(())  #: Everything in force: a reload replaces this one object.
        self.healthy = True  #: False: the file is invalid now; the last valid one is in force.
        self.loaded_s = time.time()
        self.is_open = False
        if self._file is not None:
            raw = _read(self._file)
            try:
                self._take(read_tenants(raw))
            except ValueError as exc:
                raise ValueError(f"{self._file} is invalid: {exc}") from None
            self._seen = self._in_force = raw
        elif settings.api_key is not None:
            key = settings.api_key.get_secret_value()
            try:
                kept = key if key.startswith(HASH_PREFIX) else api_keys.hash_key(key)
                owner = Tenant(name="default", admin=True, keys=(kept,))
            except ValueError:
                raise ValueError(
                    "LENGTHWISE_QUEUE_API_KEY must be a key as `lengthwise tenants new-key` makes "
                    f"it, of at least {api_keys.MIN_KEY} characters, or the hash of one"
                ) from None
            self._take((owner,))
        else:
            self.is_open = True
            self._ring = KeyRing([EVERYONE])
            log.warning(
                "OPEN MODE: no API keys. Every client that reaches this service may use it, change "
                "its queues and read every job. Set LENGTHWISE_QUEUE_TENANTS_FILE or "
                "LENGTHWISE_QUEUE_API_KEY"
            )

    def authenticate(self, key: str | None) -> Tenant:
        """Return the tenant of a request.

        Args:
            key: The API key that the client sent; None: it sent none.

        Raises:
            WrongKey: Keys are required, and no tenant has this one.
        """
        if self.is_open:
            return EVERYONE
        if not key:
            raise WrongKey(
                "This service needs an API key. Send it in the header `Authorization: Bearer "
                "<key>`; OpenAI's clients take it as `api_key`. Its operator gives you one."
            )
        owner = self._ring.owner(key)
        if owner is None:
            raise WrongKey(
                "The API key is wrong, or was withdrawn. Check that it is complete; its operator "
                "gives you another."
            )
        return owner

    def named(self, name: str) -> Tenant | None:
        """Return the tenant of that name, for work without a request; None: there is none."""
        return self._ring.by_name.get(EVERYONE.name if self.is_open else name)

    def weight(self, name: str) -> float:
        """Return the weight of a tenant; 1 if it no longer exists."""
        found = self.named(name)
        return 1.0 if found is None else found.weight

    def label(self, name: str) -> str:
        """Return the label of a tenant for metrics: its name if it exists, else `other`."""
        return name if name in self._ring.by_name else "other"

    def __len__(self) -> int:
        """Return how many tenants there are."""
        return len(self._ring.by_name)

    async def keep_current(self) -> None:
        """Read the file periodically. An invalid one is logged, and changes only `healthy`."""
        while self._file is not None:
            await asyncio.sleep(READ_EVERY_S)
            try:
                await asyncio.to_thread(self.reload)
            except Exception:  # the loop must not end: a key withdrawn tomorrow must not work
                log.exception("reading the tenants file failed")

    def reload(self) -> None:
        """Read the file, and use it if it is valid and was the same at the last read.

        Two reads, because a file that is written in place may be read half-written, and half a list
        of tenants looks like a whole one.
        """
        if self._file is None:
            return
        try:
            raw = _read(self._file)
        except ValueError as exc:
            self._refuse(str(exc), b"")
            return
        if raw == self._in_force:
            if not self.healthy:
                log.info("tenants file is valid again", extra={"path": str(self._file)})
            self.healthy, self._seen = True, raw
            return
        if raw != self._seen:
            self._seen = raw
            return
        try:
            tenants = read_tenants(raw)
        except ValueError as exc:
            self._refuse(str(exc), raw)
            return
        self._in_force = raw
        self._take(tenants)

    def _refuse(self, why: str, raw: bytes) -> None:
        if self.healthy or raw != self._seen:  # once for each content, not once a second
            log.error(
                "tenants file is invalid, the last valid one stays in force",
                extra={"path": str(self._file), "reason": why},
            )
        self.healthy, self._seen = False, raw

    def _take(self, tenants: tuple[Tenant, ...]) -> None:
        self._ring = KeyRing(tenants)
        self.healthy, self.loaded_s = True, time.time()
        log.info(
            "tenants in force",
            extra={
                "tenants": len(tenants),
                "keys": sum(len(tenant.keys) for tenant in tenants),
            },
        )
        if not any(tenant.admin and tenant.keys for tenant in tenants):
            log.warning("no tenant with a key is an admin: no client can change a queue")


def _read(path: Path) -> bytes:
    """Read the file, up to one byte over the limit.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE + 1)
    except OSError as exc:
        raise ValueError(f"{path} cannot be read: {exc.strerror}") from None
