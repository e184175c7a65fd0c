"""Start one process of the system under test.

`python -m lengthwise_lab.chaos.system.launcher PARENT PROGRAM ...` becomes the program. The kernel
kills it when the process PARENT dies (Linux), so that a run leaves no processes behind. With `-m
MODULE` it runs a Python module under a clock of its own: SIGUSR1 puts it an hour forward, SIGUSR2
an hour back.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import time

import uuid_utils

#: From <sys/prctl.h>; the signal survives execve.
_PR_SET_PDEATHSIG = 1

#: How far a signal moves the clock, s: far more than any lease, deadline or delay of a run.
STEP_S = 3600


class Clock:
    """The wall clock of this process, wrong by `offset_s`.

    It replaces `time.time`, `time.time_ns` and the time in the job ids of the queue service. The
    product's processes use no other wall clock, except for log lines. Monotonic clocks stay, since
    they do not jump.
    """

    def __init__(self) -> None:
        self.offset_s = 0
        self._time, self._time_ns, self._uuid7 = time.time, time.time_ns, uuid_utils.uuid7

    def install(self) -> None:
        """Replace the clock, and handle the signals."""
        setattr(time, "time", lambda: self._time() + self.offset_s)  # noqa: B010
        setattr(time, "time_ns", lambda: self._time_ns() + self.offset_s * 10**9)  # noqa: B010
        setattr(uuid_utils, "uuid7", self._id)  # noqa: B010
        signal.signal(signal.SIGUSR1, lambda *_: self._step(STEP_S))
        signal.signal(signal.SIGUSR2, lambda *_: self._step(-STEP_S))

    def _step(self, by_s: int) -> None:
        self.offset_s += by_s

    def _id(self) -> uuid_utils.UUID:
        true_id = self._uuid7()  # its first 48 bits are ms since the epoch
        return uuid_utils.UUID(int=true_id.int + (self.offset_s * 1000 << 80))


def main(argv: list[str]) -> None:
    """Become the program `argv[1:]`, which dies with the process `argv[0]`."""
    parent, program = int(argv[0]), argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call of prctl
            sys.exit(1)
    if program[0] != "-m":
        os.execv(program[0], program)  # noqa: S606 - no shell is wanted
    Clock().install()
    sys.argv = program[1:]
    runpy.run_module(program[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
