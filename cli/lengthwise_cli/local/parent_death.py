"""Run a program that the kernel kills when its parent dies.

`python -m lengthwise_cli.local.parent_death PARENT_PID NICENESS PROGRAM ARG...`. The kernel kills
the program however the parent dies, so `kill -9` of `lengthwise up` leaves no process behind. This
is a separate program, because the same call in a `preexec_fn` can deadlock a threaded parent. On
other systems than Linux it only runs the program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: From <sys/prctl.h>; the signal survives execve.
PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Replace this process by the program `argv[2:]`, which dies with the process `argv[0]`."""
    parent, niceness, program = int(argv[0]), int(argv[1]), argv[2:]
    os.nice(niceness)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call
            sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - without a shell


if __name__ == "__main__":
    main(sys.argv[1:])
