"""Checks that a Redis server is set up so that the promises of Lengthwise hold.

`JobStore.check` does this for every primary: before a process starts to serve, and again with
every readiness probe, because a setting can change at any time. A setting that contradicts a
promise is `StoreUnfit`; one that may do harm is a warning, which is logged once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from lengthwise_store.errors import StoreUnfit
from lengthwise_store.redis.durability import Durability
from lengthwise_store.redis.errors import read

#: Share of the memory limit. Above it, a burst of submits may be refused before an operator acts.
_HEADROOM = 0.85

#: Valkey reports `redis_version` 7.2.4.
_WAITAOF_SINCE = (7, 2)


@dataclass(frozen=True, kw_only=True)
class ServerReport:
    """The findings at one primary."""

    used_bytes: int
    limit_bytes: int  #: 0: none.
    warnings: tuple[str, ...]


async def check_server(client: Any, mode: Durability, replicas: int) -> ServerReport:
    """Check how one primary is set up.

    Args:
        client: A client of that server.
        mode: What acknowledged writes must survive.
        replicas: Mode `replica`: this many must confirm.

    Raises:
        StoreUnfit: Its settings contradict a promise; the message names the setting to change.
        StoreUnavailable: It does not answer.
    """
    info: Mapping[str, Any] = await read(client.info("everything"))
    version = str(info.get("redis_version", "0"))
    if int(version.split(".")[0]) < 7:
        raise StoreUnfit(
            f"Redis {version} is too old: Lengthwise needs Redis 7 or Valkey 8 and later."
        )
    eviction = info.get("maxmemory_policy", "noeviction")
    if eviction != "noeviction":
        raise StoreUnfit(
            f"Redis may evict accepted jobs: its maxmemory-policy is {eviction}. "
            "Set `maxmemory-policy noeviction`."
        )
    warnings = _about_memory(info)
    config = await _config(client)
    if config is None:
        warnings.append(
            "CONFIG GET is forbidden here, so that persistence and replication cannot be checked: "
            "make sure that they are what durability "
            f"{mode.value!r} needs (docs/operate/guarantees.md)"
        )
    if mode is Durability.ALWAYS:
        _needs_disk(info, config)
    elif mode is Durability.REPLICA:
        warnings += _about_replicas(info, config, replicas)
    elif config is not None and not info.get("aof_enabled") and not config.get("save"):
        warnings.append(
            "Redis writes nothing to disk: when it restarts, every job is lost. "
            "Set `appendonly yes`"
        )
    return ServerReport(
        used_bytes=int(info.get("used_memory", 0)),
        limit_bytes=int(info.get("maxmemory", 0)),
        warnings=tuple(warnings),
    )


async def _config(client: Any) -> Mapping[str, str] | None:
    """Read the settings that matter; None: CONFIG is forbidden, as in most managed services."""

    async def config() -> Mapping[str, str] | None:
        try:
            return dict(await client.config_get("appendfsync", "save", "min-replicas-to-write"))
        except ResponseError:  # NOPERM, or an unknown command
            return None

    return await read(config())


def _needs_disk(info: Mapping[str, Any], config: Mapping[str, str] | None) -> None:
    if not info.get("aof_enabled"):
        raise StoreUnfit(
            "Durability `always` needs an append-only file, and Redis has none. "
            "Set `appendonly yes` and `appendfsync always`, or durability `async`."
        )
    if config is not None and config.get("appendfsync") != "always":
        raise StoreUnfit(
            f"Durability `always` needs every write on disk before its reply, and Redis has "
            f"appendfsync {config.get('appendfsync')}. Set `appendfsync always`, or durability "
            "`async`. (WAITAOF does not replace it: with everysec, Valkey 9.1 and Redis up to 7.2 "
            "confirm before the disk has it.)"
        )
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _WAITAOF_SINCE:
        raise StoreUnfit(
            f"Redis {version} cannot confirm that a write is on its disk: durability `always` "
            "needs Redis 7.2 or Valkey 8 and later. Use one, or durability `async` or `replica`."
        )


def _about_replicas(
    info: Mapping[str, Any], config: Mapping[str, str] | None, replicas: int
) -> list[str]:
    have = int(info.get("connected_slaves", 0))
    if have < replicas:
        # No reason to take this process out of service: stored jobs can be read and finished.
        return [
            f"durability `replica` wants {replicas} replicas, and there are {have}: no job is "
            "accepted until they are back"
        ]
    if config is not None and int(config.get("min-replicas-to-write", "0")) < 1:
        return [
            "a primary that is cut off accepts writes until it is replaced: "
            f"set `min-replicas-to-write {replicas}` so that it stops"
        ]
    return []


def _about_memory(info: Mapping[str, Any]) -> list[str]:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if limit and used > _HEADROOM * limit:
        return [
            f"Redis has used more than {_HEADROOM:.0%} of its maxmemory; when it is full, no job "
            "is accepted and no answer can stream: raise maxmemory, or lower max_depth"
        ]
    return []
