"""API keys: make and hash keys, and find the tenant of a key. Pure.

Only the SHA-256 of a key is stored. A slow hash (bcrypt, Argon2) is for passwords, which can be
guessed: it makes each guess expensive. A key here is 256 random bits and cannot be guessed, so a
slow hash would only make every request expensive. That is why a short key is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable

from lengthwise_queue.tenants.tenant import HASH_PREFIX, Tenant

#: The prefix of every key. Secret scanners find it, and some clients require `sk-`.
KEY_PREFIX = "sk-lw-"

#: The shortest key that may be hashed, characters: 128 random bits in hexadecimal.
MIN_KEY = 32

_HASH = re.compile(rf"{HASH_PREFIX}[0-9a-f]{{64}}")


def new_key() -> str:
    """Make a new key: 256 bits from the system's random source."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """Hash a key for the tenants file.

    Raises:
        ValueError: The key is too short to be random, or it is a hash already.
    """
    if _HASH.fullmatch(key):
        raise ValueError("this is a hash already; a hash of a hash matches no key")
    if len(key) < MIN_KEY:
        raise ValueError(
            f"a key must have at least {MIN_KEY} characters, and this one has {len(key)}: its hash "
            "could be guessed. Make one with `lengthwise tenants new-key`"
        )
    return HASH_PREFIX + _digest(key).hex()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class KeyRing:
    """The tenants in force, found by their keys.

    The time of a look-up reveals nothing about the existing keys. The table is indexed by an HMAC
    under a secret of this process, so a caller can neither know nor choose how far a look-up gets,
    and the digests are compared in constant time. A look-up takes the same time for any number of
    keys.
    """

    def __init__(self, tenants: Iterable[Tenant]) -> None:
        self._secret = secrets.token_bytes(32)
        self.by_name = {tenant.name: tenant for tenant in tenants}
        self._owners: dict[bytes, tuple[bytes, Tenant]] = {}
        for tenant in self.by_name.values():
            for kept in tenant.keys:
                digest = bytes.fromhex(kept.removeprefix(HASH_PREFIX))
                self._owners[self._blind(digest)] = digest, tenant

    def owner(self, key: str) -> Tenant | None:
        """Return the tenant of a key; None: no tenant has it."""
        digest = _digest(key)
        found = self._owners.get(self._blind(digest))
        if found is None or not hmac.compare_digest(found[0], digest):
            return None
        return found[1]

    def _blind(self, digest: bytes) -> bytes:
        return hmac.digest(self._secret, digest, "sha256")
