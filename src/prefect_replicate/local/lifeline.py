"""Ends a process that runs a model's code once the program that started it is gone.

Not imported but run by path, by scripts that keep this package and its folder off the model's way.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
_LOOK_EVERY = 0.5  # seconds; how late a dead parent is noticed if its end of the pipe lives on


def end_with_parent(parent: int, pipe: int) -> None:
    """Watch over the parent from a thread.

    Args:
        parent: Its process id.
        pipe: File descriptor of a pipe that it holds open for as long as it lives.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_watch, args=(parent, pipe), daemon=True).start()


def _watch(parent: int, pipe: int) -> None:
    """End the whole process group once the parent is gone.

    The pipe closes with the parent at once, on every system. A child that the parent forked may
    hold a copy of its end, hence the look at the parent's process id.
    """
    while os.getppid() == parent:
        readable, _, _ = select.select([pipe], [], [], _LOOK_EVERY)
        if readable and not os.read(pipe, 1):
            break
    os.killpg(0, signal.SIGKILL)
