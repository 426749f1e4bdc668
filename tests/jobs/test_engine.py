"""One loop, two doors: results, errors, interruptions and the caller's context pass both."""

import asyncio
import contextvars
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import anyio
import pytest

from prefect_replicate.jobs.engine import Engine, engine

HERE: contextvars.ContextVar[str] = contextvars.ContextVar("HERE", default="nowhere")


async def _where() -> tuple[str, int]:
    await asyncio.sleep(0)
    return HERE.get(), threading.get_ident()


async def _fail() -> None:
    raise ValueError("as told")


def test_the_sync_door_runs_the_coroutine_in_the_callers_context_on_another_thread() -> None:
    HERE.set("sync caller")
    seen, thread = engine().run(_where)
    assert (seen, thread != threading.get_ident()) == ("sync caller", True)


async def test_the_async_door_does_too_and_on_the_same_loop() -> None:
    HERE.set("async caller")
    seen, thread = await engine().arun(_where)
    assert (seen, thread) == ("async caller", engine().run(_where)[1])


async def test_the_sync_door_works_inside_a_running_loop() -> None:
    assert engine().run(_where)[1] != threading.get_ident()


async def test_errors_come_out_of_both_doors_as_they_are() -> None:
    with pytest.raises(ValueError, match="as told"):
        engine().run(_fail)
    with pytest.raises(ValueError, match="as told"):
        await engine().arun(_fail)


async def test_callers_wait_together_and_not_in_turn() -> None:
    present: list[int] = []

    async def meet() -> int:
        present.append(1)
        while len(present) < 100:
            await asyncio.sleep(0.001)
        return len(present)

    async with asyncio.timeout(10):
        met = await asyncio.gather(*(engine().arun(meet) for _ in range(100)))
    assert min(met) == 100


async def test_a_cancelled_awaiter_waits_until_the_coroutine_has_cleaned_up() -> None:
    trace: list[str] = []

    async def work() -> None:
        trace.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            trace.append("cleaned up")
            raise

    awaiter = asyncio.ensure_future(engine().arun(work))
    while not trace:
        await asyncio.sleep(0.001)
    awaiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await awaiter
    assert trace == ["begun", "cleaned up"]


async def test_a_scope_of_anyio_that_is_cancelled_waits_too() -> None:
    trace: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            trace.append("cleaned up")
            raise

    with anyio.move_on_after(0.1):  # As Prefect's `timeout_seconds` are.
        await engine().arun(work)
    assert trace == ["cleaned up"]


def test_an_exception_that_another_thread_raises_in_the_caller_is_noticed() -> None:
    class Timeout(BaseException):
        """What Prefect's `timeout_seconds` raise in the thread of a submitted task."""

    trace: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            trace.append("cleaned up")
            raise

    def call() -> None:
        with pytest.raises(Timeout):
            engine().run(work)

    caller = threading.Thread(target=call)
    caller.start()
    time.sleep(0.1)
    assert caller.ident
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(caller.ident), ctypes.py_object(Timeout)
    )
    caller.join(timeout=20)
    assert (raised, caller.is_alive(), trace) == (1, False, ["cleaned up"])


def test_what_cannot_even_begin_is_raised() -> None:
    def make() -> Coroutine[None, None, None]:
        raise TypeError("no such argument")

    with pytest.raises(TypeError, match="no such argument"):
        engine().run(make)


def test_an_interrupted_sync_caller_waits_until_the_coroutine_has_cleaned_up() -> None:
    trace: list[str] = []
    main = threading.get_ident()

    async def work() -> None:
        # What Ctrl-C does: the interruption lands in the caller's thread, not on the loop.
        asyncio.get_running_loop().call_later(0.05, _interrupt, main)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            trace.append("cleaned up")
            raise

    with pytest.raises(KeyboardInterrupt):
        engine().run(work)
    assert trace == ["cleaned up"]


def _interrupt(thread: int) -> None:
    import signal  # noqa: PLC0415 - used by this one test

    signal.pthread_kill(thread, signal.SIGINT)


async def _count(trace: list[str], end: int = 3) -> AsyncGenerator[str, None]:
    try:
        for number in range(end):
            await asyncio.sleep(0)
            yield f"{HERE.get()} {number}"
        raise ValueError("as told")
    finally:
        await asyncio.sleep(0.02)
        trace.append("cleaned up")


def test_pieces_come_out_of_the_sync_door_one_by_one_and_then_the_error() -> None:
    HERE.set("sync")
    trace: list[str] = []
    pieces = engine().iterate(lambda: _count(trace))
    assert [next(pieces), next(pieces), next(pieces)] == ["sync 0", "sync 1", "sync 2"]
    with pytest.raises(ValueError, match="as told"):
        next(pieces)
    assert trace == ["cleaned up"]


async def test_and_out_of_the_async_door() -> None:
    HERE.set("async")
    trace: list[str] = []
    pieces = engine().aiterate(lambda: _count(trace))
    assert [await anext(pieces) for _ in range(3)] == ["async 0", "async 1", "async 2"]
    with pytest.raises(ValueError, match="as told"):
        await anext(pieces)
    assert trace == ["cleaned up"]


async def test_who_stops_reading_waits_until_the_generator_has_cleaned_up() -> None:
    trace: list[str] = []
    for _ in engine().iterate(lambda: _count(trace)):
        break
    assert trace == ["cleaned up"]
    async with aclosing(engine().aiterate(lambda: _count(trace))) as pieces:
        async for _ in pieces:
            break
    assert trace == ["cleaned up"] * 2


async def test_a_reader_that_is_cancelled_while_it_waits_for_a_piece_does_too() -> None:
    trace: list[str] = []

    async def stall() -> AsyncGenerator[str, None]:
        try:
            yield "first"
            trace.append("waiting")
            await asyncio.sleep(60)
            yield "never"
        finally:
            await asyncio.sleep(0.02)
            trace.append("cleaned up")

    async def read() -> None:
        async for _ in engine().aiterate(stall):
            pass

    reader = asyncio.ensure_future(read())
    while not trace:
        await asyncio.sleep(0.001)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert trace == ["waiting", "cleaned up"]


def test_a_generator_that_is_collected_on_the_engines_own_thread_does_not_block_it() -> None:
    trace: list[str] = []
    pieces = engine().iterate(lambda: _count(trace))
    next(pieces)

    async def collect() -> None:
        pieces.close()  # As the garbage collector does, in whatever thread it runs.

    engine().run(collect)
    deadline = time.monotonic() + 20
    while not trace and time.monotonic() < deadline:
        time.sleep(0.01)
    assert trace == ["cleaned up"]


HALF_READ = """
import asyncio
from prefect_replicate.jobs.engine import engine

async def count():
    try:
        yield 1
    finally:
        await asyncio.sleep(0.05)
        print("cleaned up", flush=True)

pieces = engine().iterate(count)
print(next(pieces), flush=True)
"""


def test_a_process_that_ends_closes_what_it_has_half_read() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HALF_READ], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.splitlines() == ["1", "cleaned up"]


def test_one_process_has_one_engine_however_many_threads_ask() -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len({id(one) for one in threads.map(lambda _: engine(), range(64))}) == 1


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_gets_an_engine_of_its_own() -> None:
    engine().run(_where)
    pieces = engine().iterate(lambda: _count([]))
    next(pieces)
    child = os.fork()
    if child == 0:
        try:
            engine().run(_where)
            pieces.close()  # The parent's; there is nothing here to close it with.
            os._exit(0)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == (child, 0)


async def test_two_engines_do_not_share_clients() -> None:
    from prefect_replicate.api.client import Access  # noqa: PLC0415 - reads better here

    access = Access("http://127.0.0.1:1", "token")
    one, other = Engine(), Engine()

    async def client(of: Engine) -> int:
        return id(of.client(access))

    first = await one.arun(lambda: client(one))
    assert first == await one.arun(lambda: client(one))
    assert first != await other.arun(lambda: client(other))
