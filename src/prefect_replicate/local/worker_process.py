"""The program of a worker process: runs one Cog model and never outlives who started it.

Started by file name with `python -P`, so that neither this package nor its folder gets into the
model's way. Arguments: process id of the parent, reference of the model, "predict" or "train".
The port comes in PORT. Standard input stays open as long as the parent lives.
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


def _end_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """End the whole process group once the parent is gone.

    The pipe closes with the parent at once, on every system. A child that the parent forked may
    hold a copy of its end, hence the look at the parent's process id.
    """
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], _LOOK_EVERY)
        if readable and not os.read(0, 1):
            break
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Serve the model until killed."""
    parent, reference, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    _end_with_parent(parent)
    import coglet  # noqa: PLC0415 - slow, and the parent may die meanwhile

    coglet.server.serve(
        predictor_ref=reference,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        is_train=mode == "train",
    )


if __name__ == "__main__":
    main()
