"""The tenants that are in force, taken from the file or the environment, and kept current.

The file is looked at all the time, by its content: a Kubernetes Secret is mounted as a link that is
swapped, whose times tell nothing, and notifications of changes do not reach network file systems.
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
from lengthwise_queue.tenants.tenant import EVERYBODY, HASH_PREFIX, MAX_FILE, Tenant, read_tenants

log = logging.getLogger(__name__)

#: How often the file is looked at, s. (A kubelet takes up to a minute to bring a changed Secret.)
LOOK_EVERY_S = 1.0


class TenantRegistry:
    """Who is who.

    Args:
        settings: Those of the process: `tenants_file`, or `api_key`, or neither: the open mode.

    Raises:
        ValueError: There is a file or a key, and it cannot be taken. At the start there is nothing
            older to keep, and to open the door instead would be the worst answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = settings.tenants_file
        self._seen = b""  #: What was found at the last look, good or not.
        self._in_force = b""
        self._ring = KeyRing(())  #: All that is in force: a reload binds this one name.
        self.healthy = True  #: False: the file as it is now cannot be taken; the old one counts.
        self.loaded_s = time.time()
        self.is_open = False
        if self._file is not None:
            raw = _read(self._file)
            try:
                self._take(read_tenants(raw))
            except ValueError as exc:
                raise ValueError(f"{self._file} cannot be taken: {exc}") from None
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
            self._ring = KeyRing([EVERYBODY])
            log.warning(
                "OPEN MODE: no API keys. Everybody who reaches this service may use it, change its "
                "queues and read every job. Set LENGTHWISE_QUEUE_TENANTS_FILE or "
                "LENGTHWISE_QUEUE_API_KEY"
            )

    def authenticate(self, key: str | None) -> Tenant:
        """Whose request it is.

        Args:
            key: What the client gave as its API key; None: nothing.

        Raises:
            WrongKey: There are keys, and this is none of them.
        """
        if self.is_open:
            return EVERYBODY
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
        """The tenant of that name, for work that goes on without a request; None: there is none."""
        return self._ring.by_name.get(EVERYBODY.name if self.is_open else name)

    def weight(self, name: str) -> float:
        """A tenant's weight; that of one which is gone: 1."""
        found = self.named(name)
        return 1.0 if found is None else found.weight

    def label(self, name: str) -> str:
        """The name as a metric's label: that of a tenant there is, else `other`."""
        return name if name in self._ring.by_name else "other"

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ring.by_name)

    async def keep_current(self) -> None:
        """Look at the file, for ever. A broken one changes nothing but `healthy`, and is logged."""
        while self._file is not None:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await asyncio.to_thread(self.look)
            except Exception:  # the last to hear of it: a key withdrawn tomorrow must not work
                log.exception("tenants file was not looked at")

    def look(self) -> None:
        """Take the file as it is now, if it is good and was the same at the look before.

        Twice, because a file that is written in place can be seen cut short, and half a list of
        tenants reads like a whole one.
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
                log.info("tenants file is good again", extra={"path": str(self._file)})
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
                "tenants file cannot be taken, the tenants before it stay in force",
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
            log.warning("no tenant with a key is an admin: nobody can change a queue")


def _read(path: Path) -> bytes:
    """The file's content, a little over the limit at most.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE + 1)
    except OSError as exc:
        raise ValueError(f"{path} cannot be read: {exc.strerror}") from None
