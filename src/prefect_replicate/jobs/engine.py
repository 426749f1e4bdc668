"""The one event loop of this process that talks to Replicate, and its two doors.

Everything is written once, as a coroutine. A sync caller submits it and blocks; an async caller
submits it and awaits, without a thread of its own. The loop's thread would not see the caller's
Prefect settings, run and logger, which are context variables: the coroutine runs in a copy of the
caller's context, so it does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prefect.client.orchestration import PrefectClient, get_client
from prefect.settings import get_current_settings
from pydantic import SecretStr

from prefect_replicate.api.client import Access, Client

T = TypeVar("T")

# How long an interrupted caller waits for the coroutine to cancel its job at Replicate.
CLEAN_UP_WITHIN = 15.0


@dataclass(slots=True, eq=False)
class _Submitted:
    """A coroutine on its way through the loop, as seen from other threads."""

    loop: asyncio.AbstractEventLoop
    future: concurrent.futures.Future[Any] = field(default_factory=concurrent.futures.Future)
    task: asyncio.Task[Any] | None = None

    def begin(self, make: Callable[[], Coroutine[Any, Any, Any]], context: Any) -> None:
        self.task = self.loop.create_task(make(), context=context)
        self.task.add_done_callback(self._settle)

    def cancel(self) -> None:
        """Interrupt the coroutine. `begin` was queued before, so the task is there by then."""
        self.loop.call_soon_threadsafe(lambda: self.task and self.task.cancel())

    def _settle(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.future.set_exception(asyncio.CancelledError())
        elif error := task.exception():
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())


class Engine:
    """An event loop in a background thread, with the clients that live on it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._clients: dict[Access, Client] = {}
        self._prefect: dict[tuple[str | None, ...], PrefectClient] = {}
        self._entering = asyncio.Lock()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="prefect-replicate", daemon=True
        )
        self._thread.start()

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The sync door: run a coroutine on the loop and block until it ends.

        An interruption of the calling thread (Ctrl-C, a termination) interrupts the coroutine,
        and is raised when that has cleaned up.
        """
        submitted = self._submit(make)
        try:
            result: T = submitted.future.result()
        except BaseException:
            if not submitted.future.done():
                submitted.cancel()
                concurrent.futures.wait([submitted.future], timeout=CLEAN_UP_WITHIN)
            raise
        return result

    async def arun(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The async door: the same, without blocking the caller's loop."""
        submitted = self._submit(make)
        waiter: asyncio.Future[T] = asyncio.wrap_future(submitted.future)
        # Shielded, because a cancelled wrapper would cancel the future and with it all sight of
        # the coroutine, which must have its time to cancel the job.
        await _settled(waiter, submitted)
        return waiter.result()

    def client(self, access: Access) -> Client:
        """The client for one token; to be called on the loop."""
        if access not in self._clients:
            self._clients[access] = Client(access)
        return self._clients[access]

    async def prefect_client(self) -> PrefectClient:
        """A client of the Prefect server that the calling context means; kept for the next call."""
        api = get_current_settings().api
        meant = (api.url, *map(_revealed, (api.key, api.auth_string)))
        async with self._entering:
            if meant not in self._prefect:
                self._prefect[meant] = await get_client().__aenter__()
        return self._prefect[meant]

    def _submit(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> _Submitted:
        submitted = _Submitted(self._loop)
        context = contextvars.copy_context()
        self._loop.call_soon_threadsafe(submitted.begin, make, context)
        return submitted


def _revealed(secret: SecretStr | str | None) -> str | None:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret


async def _settled(waiter: asyncio.Future[Any], submitted: _Submitted) -> None:
    try:
        await asyncio.wait([waiter])
    except asyncio.CancelledError:
        submitted.cancel()
        done, _ = await asyncio.wait([waiter], timeout=CLEAN_UP_WITHIN)
        for future in done:
            future.exception()  # Seen; the caller gets the interruption instead.
        raise


_current: Engine | None = None
_starting = threading.Lock()


def engine() -> Engine:
    """The engine of this process, started at first use and anew after a fork."""
    global _current  # noqa: PLW0603 - one loop for the whole process is the point
    with _starting:
        if _current is None:
            _current = Engine()
        return _current


def _forget() -> None:
    """A forked child has the engine's memory but not its thread."""
    global _current, _starting
    _current, _starting = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
