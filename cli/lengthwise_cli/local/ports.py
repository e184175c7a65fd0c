"""Find free TCP ports of this machine."""

from __future__ import annotations

import random
import socket

#: Ports to choose from: below the range that Linux uses for outgoing connections (32768 and up), so
#: that a port is still free when a child restarts on it.
_RANGE = (18_000, 32_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def find_free(taken: set[int] | None = None) -> int:
    """Return a port that is free now and not in `taken`.

    Raises:
        OSError: None was found.
    """
    for _ in range(1000):
        port = random.randrange(*_RANGE)  # noqa: S311 - not for secrets
        if port not in (taken or set()) and is_free(port):
            return port
    raise OSError(f"no free TCP port between {_RANGE[0]} and {_RANGE[1]}")
