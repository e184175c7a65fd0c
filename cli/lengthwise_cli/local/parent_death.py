"""Ties a process to the life of its parent, then becomes another program.

`python -m lengthwise_cli.local.parent_death PARENT_PID NICENESS PROGRAM ARG...`. The kernel kills the program
when the parent dies, however it dies, so `kill -9` of `lengthwise up` leaves nothing behind. A
program of its own, because the same call in a `preexec_fn` may deadlock a threaded parent. Linux
only; elsewhere it just becomes the program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: From <sys/prctl.h>; the signal survives execve.
PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Replace this process by `argv[2:]`, to die with the process `argv[0]`."""
    parent, niceness, program = int(argv[0]), int(argv[1]), argv[2:]
    os.nice(niceness)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
