"""Whether this process is being stopped, or the flow that calls: what nothing tells a thread.

A signal is raised as an exception in the main thread alone. Prefect then waits there until the
threads of its tasks have ended, and those know nothing of it. But what the main thread is handling
can be seen from everywhere.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.task_runners import ThreadPoolTaskRunner

_OF_PROCESS = (KeyboardInterrupt, TerminationSignal)
_OF_FLOW = (*_OF_PROCESS, asyncio.CancelledError, SystemExit)
_EXIT = ThreadPoolTaskRunner.__exit__.__code__
_DEEPEST = 100


class Closing(NamedTuple):
    """A flow that is stopped and waits until its tasks in other threads have ended.

    Attributes:
        runner: What runs its tasks.
        stop: Why.
    """

    runner: object
    stop: BaseException


def of_process() -> BaseException | None:
    """The Ctrl-C or SIGTERM that the main thread is handling, None if it is handling none."""
    handled: Any = sys._current_exceptions().get(_main())  # noqa: SLF001 - documented, and its only name
    # Until Python 3.11 it was a tuple of what `sys.exc_info()` gives.
    return _among(handled[1] if isinstance(handled, tuple) else handled, _OF_PROCESS)


def of_flow() -> Closing | None:
    """The flow that the main thread is leaving because it was interrupted or cancelled.

    Asyncio answers a first Ctrl-C by cancelling its main task, so that no exception says why.
    """
    frame = sys._current_frames().get(_main())  # noqa: SLF001 - likewise
    while frame is not None:
        if frame.f_code is _EXIT:
            told = frame.f_locals
            stop = _among(told.get("exc_value"), _OF_FLOW)
            return Closing(told.get("self"), stop) if stop else None
        frame = frame.f_back
    return None


def of_caller() -> BaseException | None:
    """The interruption that the calling code itself is handling: it is cleaning up."""
    return _among(sys.exception(), _OF_FLOW)


def of_signal(error: BaseException) -> bool:
    """Whether an interruption comes of a SIGTERM.

    In coroutines it surfaces as a cancellation, while asyncio handles the exception itself.
    """
    return isinstance(
        _among(error, _OF_PROCESS) or of_process(),
        TerminationSignal,
    )


def runner() -> object:
    """What runs the tasks of the flow that calls, None outside of a flow."""
    flow = FlowRunContext.get()
    return flow.task_runner if flow else None


def current_task() -> asyncio.Task[Any] | None:
    """The task of asyncio that calls, None where no loop runs."""
    with suppress(RuntimeError):
        return asyncio.current_task()
    return None


def _main() -> int:
    return threading.main_thread().ident or 0


def _among(error: Any, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """The first of such a kind among an exception and those that it was raised in the wake of."""
    for _ in range(_DEEPEST):
        if not isinstance(error, BaseException):
            return None
        if isinstance(error, kinds):
            return error
        error = error.__context__
    return None
