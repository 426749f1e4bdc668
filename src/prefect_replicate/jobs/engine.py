"""The one event loop of this process that talks to Replicate, and its two doors.

Everything is written once, as a coroutine. A sync caller submits it and blocks; an async caller
submits it and awaits, without a thread of its own. The loop's thread would not see the caller's
Prefect settings, run and logger, which are context variables: the coroutine runs in a copy of the
caller's context, so it does.

Nor does anything tell a caller in another thread that the process is being stopped. The loop looks
for that, once for all callers, and interrupts them.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextvars
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import TerminationSignal
from prefect.logging.loggers import get_logger
from prefect.settings import get_current_settings
from pydantic import SecretStr

from prefect_replicate.api.client import Access, Client, Downloads
from prefect_replicate.jobs import stops
from prefect_replicate.settings import read_settings

T = TypeVar("T")
logger = get_logger("prefect_replicate")

# How long an interrupted caller waits for the coroutine to clean up: for the answer to a create
# that is on its way (30 s), for what Prefect says of the flow run, and for the cancel (10 s each).
CLEAN_UP_WITHIN = 55.0
DISCONNECT_WITHIN = 2.0
# Seconds between looks whether a sync caller, or all of them, are interrupted.
_SLICE = 0.2


@dataclass(slots=True, eq=False)
class _Submitted:
    """A coroutine on its way through the loop, as seen from other threads.

    Attributes:
        within: The stop of the process in which it began; it belongs to the cleaning up.
        cleans: It was called while an interruption was handled.
        runner: What runs the tasks of the flow that calls.
        why: How it was interrupted.
    """

    loop: asyncio.AbstractEventLoop
    future: concurrent.futures.Future[Any] = field(default_factory=concurrent.futures.Future)
    task: asyncio.Task[Any] | None = None
    within: BaseException | None = field(default_factory=stops.of_process)
    cleans: bool = field(default_factory=lambda: stops.of_caller() is not None)
    runner: object = field(default_factory=stops.runner)
    why: type[BaseException] | None = None

    @property
    def terminated(self) -> bool:
        """Whether it was interrupted by a SIGTERM, or cleans up after one."""
        return self.why is TerminationSignal or isinstance(self.within, TerminationSignal)

    def begin(
        self, make: Callable[[], Coroutine[Any, Any, Any]], context: contextvars.Context
    ) -> None:
        try:
            work = make()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller waits for it
            self.future.set_exception(error)
            return
        context.run(_CALL.set, self)
        self.task = self.loop.create_task(work, context=context)
        self.task.add_done_callback(self._settle)

    def interrupt(self, error: BaseException) -> None:
        """Interrupt the coroutine. `begin` was queued before, so the task is there by then."""
        why = TerminationSignal if stops.of_signal(error) else type(error)
        self.loop.call_soon_threadsafe(self.interrupt_now, why)

    def interrupt_now(self, why: type[BaseException]) -> None:
        """Interrupt it on the loop, once."""
        if self.task and self.why is None:
            self.why = why
            self.task.cancel()

    def stopped_by(
        self, process: BaseException | None, flow: stops.Closing | None
    ) -> BaseException | None:
        """What stops it, of what stops the process and a flow; None if neither does."""
        if process and process is not self.within:
            return process
        if flow and flow.runner is self.runner and not self.cleans:
            return flow.stop
        return None

    def _settle(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.future.set_exception(asyncio.CancelledError())
        elif error := task.exception():
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())


_CALL: contextvars.ContextVar[_Submitted | None] = contextvars.ContextVar("call", default=None)


def terminated() -> bool:
    """Whether the call that asks was interrupted by a SIGTERM: somebody may make it again."""
    call = _CALL.get()
    return call is not None and call.terminated


class Engine:
    """An event loop in a background thread, with the clients that live on it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._clients: dict[Access, Client] = {}
        self._downloads: Downloads | None = None
        self._prefect: dict[tuple[str | None, ...], PrefectClient] = {}
        self._entering = asyncio.Lock()
        self._read: set[AsyncGenerator[Any, None]] = set()
        self._calls: set[_Submitted] = set()
        self._looking = False
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="prefect-replicate", daemon=True
        )
        self._thread.start()

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The sync door: run a coroutine on the loop and block until it ends.

        An interruption of the calling thread (Ctrl-C, a termination), or of the process while it
        calls from another one, interrupts the coroutine, and is raised when that has cleaned up.
        """
        submitted = _Submitted(self._loop)
        # The loop of a caller that has one stands still, and only notes that a Ctrl-C came.
        beneath = stops.current_task()
        noted = beneath.cancelling() if beneath else 0
        try:
            self._begin(submitted, make)
            # In slices: an exception that another thread raises in this one, as Prefect's task
            # timeouts do, is only seen between two of them.
            while not submitted.future.done():
                concurrent.futures.wait([submitted.future], timeout=_SLICE)
                if beneath and beneath.cancelling() > noted:
                    raise asyncio.CancelledError  # noqa: TRY301 - as if the loop had raised it
        except BaseException as error:
            submitted.interrupt(error)
            concurrent.futures.wait([submitted.future], timeout=CLEAN_UP_WITHIN)
            _told(submitted)
            raise
        return cast("T", _result(submitted))

    async def arun(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The async door: the same, without blocking the caller's loop."""
        submitted = _Submitted(self._loop)
        self._begin(submitted, make)
        waiter: asyncio.Future[T] = asyncio.wrap_future(submitted.future)
        try:
            # Waited for and not awaited: a cancelled awaiter would cancel the future, and with it
            # all sight of the coroutine, which must have its time to cancel the job.
            await asyncio.wait([waiter])
        except GeneratorExit as error:
            submitted.interrupt(error)  # Nothing can be awaited in a coroutine that is closed.
            raise
        except BaseException as error:
            submitted.interrupt(error)
            # anyio cancels again at every await of a scope that is cancelled; Prefect's timeouts
            # are such scopes.
            with anyio.CancelScope(shield=True):
                await asyncio.wait([waiter], timeout=CLEAN_UP_WITHIN)
            _told(submitted)
            # Seen, or else asyncio complains that nobody has looked at it.
            waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        return waiter.result()

    def iterate(self, make: Callable[[], AsyncGenerator[T, None]]) -> Generator[T, None, None]:
        """The sync door to an async generator: each piece as it comes, as `run` gives a result.

        A caller that stops early, or is interrupted, waits until the generator has cleaned up.
        """
        pieces = make()
        self._read.add(pieces)
        try:
            while (piece := self.run(partial(_next, pieces))) is not _END:
                try:
                    yield piece
                except BaseException:
                    self._close(pieces)
                    raise
        finally:
            self._read.discard(pieces)

    async def aiterate(
        self, make: Callable[[], AsyncGenerator[T, None]]
    ) -> AsyncGenerator[T, None]:
        """The async door: the same, without blocking the caller's loop."""
        pieces = make()
        while (piece := await self.arun(partial(_next, pieces))) is not _END:
            try:
                yield piece
            except BaseException:
                await self.arun(partial(_closed, pieces))
                raise

    def client(self, access: Access) -> Client:
        """The client for one token; to be called on the loop.

        Its transport is what the setting says when the token is first used.

        Raises:
            ConfigurationError: The base URL, the token or the transport cannot be one.
        """
        if access not in self._clients:
            self._clients[access] = Client(access, transport=read_settings().transport)
        client = self._clients[access]
        client.saved_as = access.saved_as or client.saved_as
        return client

    def downloads(self) -> Downloads:
        """The client for files, which has no token; to be called on the loop."""
        self._downloads = self._downloads or Downloads()
        return self._downloads

    async def prefect_client(self) -> PrefectClient:
        """A client of the Prefect server that the calling context means; kept for the next call."""
        api = get_current_settings().api
        meant = (api.url, *map(_revealed, (api.key, api.auth_string)))
        async with self._entering:
            if meant not in self._prefect:
                self._prefect[meant] = await get_client().__aenter__()
        return self._prefect[meant]

    def finish(self) -> None:
        """Let every call clean up, and close all connections, while the loop still runs.

        Nobody hears any more what becomes of those that still wait, or are half read.
        """
        for pieces in tuple(self._read):
            self._read.discard(pieces)
            self._close(pieces)
        if self._thread.is_alive():
            self._clean_up()
            self.run(self._disconnect)

    def _clean_up(self) -> None:
        waiting = tuple(self._calls)
        for submitted in waiting:
            submitted.interrupt(SystemExit())
        if waiting:
            logger.warning("Waiting for %d interrupted calls to clean up.", len(waiting))
        try:
            concurrent.futures.wait([each.future for each in waiting], timeout=CLEAN_UP_WITHIN)
        finally:  # This wait may be interrupted too.
            for submitted in waiting:
                _told(submitted)

    async def _disconnect(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        # At the very end nobody is left to hear of what goes wrong.
        with suppress(Exception):
            async with asyncio.timeout(DISCONNECT_WITHIN):
                for client in clients:
                    await client.aclose()

    def _close(self, pieces: AsyncGenerator[Any, None]) -> None:
        if sys.is_finalizing() or not self._thread.is_alive():
            return  # At the very end, or in a forked child: waiting for it would never end.
        if threading.current_thread() is self._thread:
            # Garbage is collected in any thread, and the loop's own must not wait for itself.
            self._begin(_Submitted(self._loop), partial(_closed, pieces))
            return
        self.run(partial(_closed, pieces))

    def _begin(self, submitted: _Submitted, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        context = contextvars.copy_context()
        self._loop.call_soon_threadsafe(self._start, submitted, make, context)

    def _start(
        self,
        submitted: _Submitted,
        make: Callable[[], Coroutine[Any, Any, Any]],
        context: contextvars.Context,
    ) -> None:
        self._calls.add(submitted)
        submitted.future.add_done_callback(lambda _: self._calls.discard(submitted))
        submitted.begin(make, context)
        if not self._looking:
            self._look()

    def _look(self, before: BaseException | None = None) -> None:
        """Interrupt all calls that are stopped, and look again while there are any.

        What is seen twice is not merely caught and done with.
        """
        process, flow = stops.of_process(), stops.of_flow()
        stop = process or (flow.stop if flow else None)
        for submitted in tuple(self._calls) if stop and stop is before else ():
            if why := submitted.stopped_by(process, flow):
                submitted.interrupt_now(type(why))
        self._looking = bool(self._calls)
        if self._looking:
            self._loop.call_later(_SLICE, self._look, stop, context=contextvars.Context())


_END: Any = object()


async def _next(pieces: AsyncGenerator[T, None]) -> T:
    return await anext(pieces, _END)


async def _closed(pieces: AsyncGenerator[Any, None]) -> None:
    await pieces.aclose()


def _revealed(secret: SecretStr | str | None) -> str | None:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret


def _result(submitted: _Submitted) -> Any:
    """The result of a call of the sync door. One that was stopped raises what stopped it.

    Prefect ends a task on these as crashed, and does not run it again.
    """
    try:
        return submitted.future.result()
    except asyncio.CancelledError:
        if submitted.why is TerminationSignal:
            raise TerminationSignal(signal.SIGTERM) from None
        raise (submitted.why or asyncio.CancelledError) from None


def _told(submitted: _Submitted) -> None:
    """Say so if an interrupted call may have left something running; the interruption goes on."""
    future = submitted.future
    if not future.done():
        logger.error("Interrupted before clean-up had ended: a job may run on and cost money.")
    elif (error := future.exception()) and not isinstance(error, asyncio.CancelledError):
        logger.error("While it was interrupted: %s", error)


_current: Engine | None = None
_starting = threading.Lock()
_of_parents: list[Engine | None] = []


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
    # Kept for good: aiohttp's connections close themselves when they are forgotten, and in a child
    # that takes them off the parent's selector, which both share.
    _of_parents.append(_current)
    _current, _starting = None, threading.Lock()


def _finish() -> None:
    """A process that ends does not close its generators before its threads have stopped."""
    if _current:
        _current.finish()


os.register_at_fork(after_in_child=_forget)
atexit.register(_finish)
