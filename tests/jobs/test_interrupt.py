"""Ctrl-C in a script cancels the job that it waits for."""

import os
import signal
import subprocess
import sys
import time

import pytest
from prefect.settings import get_current_settings

from prefect_replicate import LocalReplicate
from tests.tasks.conftest import jobs

SYNC = """
from prefect import flow
from prefect_replicate import run_model

@flow
def sleeper():
    run_model({model!r}, {input!r})

sleeper()
"""
ASYNC = """
import asyncio
from prefect import flow
from prefect_replicate import arun_model

@flow
async def sleeper():
    await asyncio.gather(arun_model({model!r}, {input!r}), arun_model({model!r}, {input!r}))

asyncio.run(sleeper())
"""


@pytest.mark.parametrize(("script", "number"), [(SYNC, 71), (ASYNC, 72)], ids=["sync", "async"])
def test_ctrl_c_leaves_no_job_running(
    prefect_server: None, replicate: LocalReplicate, tiny_model: str, script: str, number: int
) -> None:
    asked = {"do": "sleep", "number": number}
    with subprocess.Popen(
        [sys.executable, "-c", script.format(model=tiny_model, input=asked)],
        env={
            **os.environ,
            "PREFECT_API_URL": get_current_settings().api.url or "",
            "REPLICATE_API_TOKEN": replicate.token,
            "REPLICATE_BASE_URL": replicate.base_url,
        },
        stderr=subprocess.DEVNULL,
    ) as process:
        wanted = 2 if script is ASYNC else 1
        try:
            # The model takes one at a time, so the second one is waiting for its turn.
            _wait_until(lambda: len(_statuses(replicate, asked)) == wanted)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) != 0
    assert _statuses(replicate, asked) == ["canceled"] * wanted


def _statuses(replicate: LocalReplicate, asked: dict[str, object]) -> list[str]:
    return [job["status"] for job in jobs(replicate) if job["input"] == asked]


def _wait_until(condition: object, seconds: float = 30) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)
