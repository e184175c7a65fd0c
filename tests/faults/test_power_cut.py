"""The host of Redis loses power: data that the kernel had not written to the disk is gone.

Killing a process leaves the page cache, so it proves nothing about the disk. Here Redis writes to a
separate file system on a loop device, and the file behind that device is the disk. While Redis is
suspended, the file is what a power cut would leave: it is copied, and another Redis starts on the
copy. Needs root, for mounting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_store.redis.durability import Durability
from lengthwise_store.settings import StoreSettings

if TYPE_CHECKING:
    from tests.faults.conftest import QueueRig, Server, Servers

On = Callable[..., None]

#: Long enough that the file system's own clock writes nothing out during a test, s.
COMMIT_S = 600
SIZE = 64 << 20

#: This many jobs are acknowledged when the power fails, and the next one is in flight.
JOBS = 200


def run(name: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of the system."""
    path = shutil.which(name)
    assert path is not None
    return subprocess.run([path, *args], capture_output=True, text=True, check=False)


class Disk:
    """File systems for the tests, each on a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mounted: list[Path] = []

    def format(self) -> Path:
        """A fresh file; not mounted."""
        image = self._folder / "disk"
        with image.open("wb") as file:
            file.truncate(SIZE)
        run("mkfs.ext4", "-q", image).check_returncode()
        return image

    def mount(self, image: Path) -> Path:
        """Mount the file, and return the folder.

        Skips the test if mounting is not allowed.
        """
        point = Path(f"{image}-mounted")
        point.mkdir()
        done = run("mount", "-o", f"loop,commit={COMMIT_S}", image, point)
        if done.returncode:
            pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
        self._mounted.append(point)
        return point

    def close(self) -> None:
        for point in self._mounted:
            run("umount", point)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4")
    made = Disk(tmp_path)
    yield made
    made.close()


def acknowledged_before_the_cut(
    disk: Disk, servers: Servers, on: On, settings: StoreSettings, **config: Any
) -> tuple[list[str], Server]:
    """Submit while the power fails; return the acknowledged jobs and a Redis on the disk."""
    image = disk.format()
    server = servers.start(folder=disk.mount(image) / "redis", **config)
    acknowledged: list[str] = []
    copy = image.with_name("copy")

    if settings.durability is Durability.ALWAYS:
        server.needs_waitaof()

    async def body(rig: QueueRig) -> None:
        await rig.store.check()
        run("sync", "--file-system", server.folder).check_returncode()
        enough = asyncio.Event()

        async def submits() -> None:
            while True:
                acknowledged.append(await rig.submit())
                if len(acknowledged) == JOBS:
                    enough.set()

        submitting = asyncio.create_task(submits())
        await enough.wait()
        server.send(signal.SIGSTOP)
        shutil.copyfile(image, copy)
        submitting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await submitting
        server.kill()

    on(server.url, body, settings)
    return acknowledged, servers.start(folder=disk.mount(copy) / "redis", **config)


def kept(server: Server, ids: list[str]) -> list[str]:
    return [one for one in ids if server.ask("EXISTS", f"lw:{{org/model-1}}:job:{one}")]


@pytest.mark.slow
def test_a_power_cut_takes_no_job_that_always_acknowledged(
    disk: Disk, servers: Servers, on: On
) -> None:
    settings = StoreSettings(durability=Durability.ALWAYS)
    ids, after = acknowledged_before_the_cut(
        disk, servers, on, settings, appendonly="yes", appendfsync="always"
    )
    assert kept(after, ids) == ids


@pytest.mark.slow
def test_a_power_cut_takes_jobs_where_redis_leaves_the_disk_to_the_kernel(
    disk: Disk, servers: Servers, on: On
) -> None:
    """This shows that the power cut of the test above does lose data."""
    ids, after = acknowledged_before_the_cut(
        disk, servers, on, StoreSettings(), appendonly="yes", appendfsync="no"
    )
    assert len(kept(after, ids)) < len(ids)
