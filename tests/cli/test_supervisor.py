"""The supervisor, with real processes: it starts, restarts, stops, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.waiting import eventually, eventually_async

from lengthwise_cli.errors import ChildFailed
from lengthwise_cli.local.supervisor import Child, Supervisor

#: Time limit of each step, s.
WITHIN_S = 20.0


def child(
    folder: Path,
    program: str,
    *,
    name: str = "the child",
    ready: Callable[[float], Awaitable[bool]] | None = None,
    ready_within_s: float = WITHIN_S,
    stop_within_s: float = WITHIN_S,
) -> Child:
    """A Python program; it is ready once it has written `<name>.ready`, or by `ready`."""

    async def has_written(_: float) -> bool:
        return (folder / f"{name}.ready").exists()

    return Child(
        name=name,
        argv=(sys.executable, "-c", program),
        env={"READY": str(folder / f"{name}.ready"), "FOLDER": str(folder)},
        log=folder / "logs" / f"{name}.log",
        ready=ready or has_written,
        ready_within_s=ready_within_s,
        stop_within_s=stop_within_s,
    )


#: Writes that it is ready, then waits for a signal.
PATIENT = "import os, pathlib, signal; pathlib.Path(os.environ['READY']).touch(); signal.pause()"


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_child_that_is_killed_is_restarted_and_reported(tmp_path: Path) -> None:
    reports: list[str] = []

    async def scenario() -> None:
        async with Supervisor(reports.append) as supervisor:
            await supervisor.start(child(tmp_path, PATIENT))
            first = supervisor.pids()["the child"]
            os.kill(first, signal.SIGKILL)
            await eventually_async(lambda: "the child is back" in reports, "the child is back")
            second = supervisor.pids()["the child"]
            assert second != first
            assert alive(second)
        assert not alive(second)

    asyncio.run(scenario())
    assert "killed by SIGKILL" in reports[0]


def test_a_child_that_ends_at_once_fails_the_start_with_its_last_lines(tmp_path: Path) -> None:
    program = "import sys; print('no disk left'); sys.exit(7)"

    async def never(_: float) -> bool:
        return False

    async def scenario() -> None:
        async with Supervisor(print) as supervisor:
            await supervisor.start(child(tmp_path, program, ready=never))

    with pytest.raises(ChildFailed, match=r"(?s)status 7.*no disk left"):
        asyncio.run(scenario())


def test_a_child_that_is_never_ready_fails_the_start_and_is_stopped(tmp_path: Path) -> None:
    pids: list[int] = []

    async def never(_: float) -> bool:
        return False

    async def scenario() -> None:
        async with Supervisor(print) as supervisor:
            try:
                await supervisor.start(child(tmp_path, PATIENT, ready=never, ready_within_s=0.3))
            finally:
                pids.extend(supervisor.pids().values())

    with pytest.raises(ChildFailed, match="not ready after"):
        asyncio.run(scenario())
    assert len(pids) == 1
    assert not alive(pids[0])


def test_children_are_stopped_the_last_started_first(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys\n"
        "def bye(*_):\n"
        "    with open(os.environ['FOLDER'] + '/order', 'a') as f: f.write(sys.argv[1] + ' ')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\n"
        "pathlib.Path(os.environ['READY']).touch()\n"
        "while True: signal.pause()\n"
    )

    async def scenario() -> None:
        async with Supervisor(print) as supervisor:
            for name in ("valkey", "service", "worker"):
                one = child(tmp_path, program, name=name)
                await supervisor.start(Child(**{**one.__dict__, "argv": (*one.argv, name)}))

    asyncio.run(scenario())
    assert (tmp_path / "order").read_text() == "worker service valkey "


def test_a_child_that_ignores_sigterm_is_killed_and_reported(tmp_path: Path) -> None:
    reports: list[str] = []
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + PATIENT.replace(
        "signal.pause()", "[signal.pause() for _ in range(9)]"
    )
    pids: list[int] = []

    async def scenario() -> None:
        async with Supervisor(reports.append) as supervisor:
            await supervisor.start(child(tmp_path, program, stop_within_s=0.3))
            pids.extend(supervisor.pids().values())

    asyncio.run(scenario())
    assert "did not stop within" in reports[0]
    assert not alive(pids[0])


def test_the_processes_that_a_killed_child_started_end_with_it(tmp_path: Path) -> None:
    # A worker may run its engine as a process; if the first one survived, the second one would
    # be slow, or its port would be in use.
    program = (
        "import os, pathlib, signal, subprocess, sys\n"
        "engine = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "with open(os.environ['FOLDER'] + '/engines', 'a') as f: f.write(f'{engine.pid}\\n')\n"
        "pathlib.Path(os.environ['READY']).touch(); signal.pause()"
    )

    def engines() -> list[int]:
        return [int(line) for line in (tmp_path / "engines").read_text().split()]

    async def scenario() -> None:
        async with Supervisor(print) as supervisor:
            await supervisor.start(child(tmp_path, program))
            os.kill(supervisor.pids()["the child"], signal.SIGKILL)
            await eventually_async(lambda: len(engines()) == 2, "a second engine")
            await eventually_async(lambda: not alive(engines()[0]), "the first engine is gone")
            assert alive(engines()[1])
        await eventually_async(lambda: not alive(engines()[1]), "the second engine is gone")

    asyncio.run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_the_children_end_with_their_parent_also_when_it_is_killed(tmp_path: Path) -> None:
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import asyncio, pathlib, sys\n"
        "from lengthwise_cli.local.supervisor import Child, Supervisor\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "async def ready(_): return True\n"
        "async def main():\n"
        "    supervisor = Supervisor(print)\n"
        "    argv = (sys.executable, '-c', 'import signal; signal.pause()')\n"
        "    await supervisor.start(Child(name='c', argv=argv, log=folder / 'l', ready=ready))\n"
        "    (folder / 'pid.part').write_text(str(supervisor.pids()['c']))\n"
        "    (folder / 'pid.part').rename(folder / 'pid')\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, str(parent), str(tmp_path)])
    try:
        eventually((tmp_path / "pid").exists, "the child has a process id")
        pid = int((tmp_path / "pid").read_text())
        # Not earlier: until the child is its program, it has not set PR_SET_PDEATHSIG.
        eventually(lambda: b"signal.pause" in cmdline(pid), "the child runs")
        eventually(lambda: b"parent_death" not in cmdline(pid), "the child is its program")
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not alive(pid), "the child is gone")


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
