"""What stops a process reaches every call in it, and lets those that clean up do so."""

import signal
import subprocess
import sys
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.watch import left_behind_by

BEGIN = """
import asyncio, threading, time
from concurrent.futures import ThreadPoolExecutor
from prefect_replicate.jobs.engine import engine

def say(what):
    print(what, flush=True)

ready = threading.Event()  # the main thread is where the signal is meant to meet it

async def work():
    while not ready.is_set():
        await asyncio.sleep(0.01)
    say("waiting")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        say("cleaning up")
        await asyncio.sleep(1)
        say("cleaned up")
        raise

async def soon():
    await asyncio.sleep(1)
    say("done")

"""
# The main thread waits for the others while it handles the interruption, as Prefect's does.
IN_A_THREAD = """
threads = ThreadPoolExecutor()
waiting = threads.submit(engine().run, work)
try:
    ready.set()
    time.sleep(60)
finally:
    waiting.exception()
"""
IN_A_LOOP_IN_A_THREAD = """
threads = ThreadPoolExecutor()
waiting = threads.submit(asyncio.run, engine().arun(work))
try:
    ready.set()
    time.sleep(60)
finally:
    waiting.exception()
"""
UNDER_ASYNCIO = """
async def main():
    ready.set()
    engine().run(work)

asyncio.run(main())
"""
IN_A_DAEMON = """
threading.Thread(target=engine().run, args=[work], daemon=True).start()
ready.set()
time.sleep(60)
"""
MAIN = """
ready.set()
engine().run(work)
"""
CLEANS_UP = """
try:
    ready.set()
    engine().run(work)
except KeyboardInterrupt:
    with ThreadPoolExecutor() as threads:
        threads.submit(engine().run, soon).result()
    engine().run(soon)
"""
CAUGHT = """
with ThreadPoolExecutor() as threads:
    waiting = threads.submit(engine().run, soon)
    try:
        say("waiting")
        time.sleep(60)
    except KeyboardInterrupt:
        pass
    waiting.result()
"""
CLEAN = ["waiting", "cleaning up", "cleaned up"]


def _interrupted(script: str, *, at: tuple[str, ...] = ("waiting",)) -> tuple[list[str], int]:
    """What a script says that gets a Ctrl-C at each of some lines, and how it ends."""
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                said.append(line.strip())
                if said[-1] in at:
                    process.send_signal(signal.SIGINT)
            return said, process.wait(60)
        finally:
            process.kill()


@pytest.mark.parametrize(
    "script",
    [MAIN, IN_A_THREAD, IN_A_LOOP_IN_A_THREAD, UNDER_ASYNCIO, IN_A_DAEMON],
    ids=["main thread", "thread", "loop in a thread", "under asyncio", "daemon"],
)
def test_ctrl_c_reaches_a_call(script: str) -> None:
    said, status = _interrupted(script)
    assert said == CLEAN
    assert status != 0


def test_a_second_ctrl_c_does_not_keep_a_call_from_cleaning_up() -> None:
    said, _ = _interrupted(MAIN, at=("waiting", "cleaning up"))
    assert said == CLEAN


def test_calls_that_clean_up_after_a_ctrl_c_are_not_interrupted_by_it() -> None:
    said, status = _interrupted(CLEANS_UP)
    assert (said, status) == ([*CLEAN, "done", "done"], 0)


def test_a_ctrl_c_that_is_caught_and_done_with_interrupts_no_other_thread() -> None:
    assert _interrupted(CAUGHT) == (["waiting", "done"], 0)


@pytest.mark.usefixtures("prefect_server")
def test_a_job_is_left_where_prefect_does_not_say_that_its_flow_run_is_canceled() -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert engine().run(lambda: left_behind_by(uuid4()))
    # There is none of that id any more.
    assert not engine().run(lambda: left_behind_by(uuid4()))
