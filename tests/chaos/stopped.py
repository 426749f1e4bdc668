"""Flows that wait for jobs, to be stopped in every way; each job's text is the name of its flow.

Called with names it runs those flows, each in a process of its own, and prints what became of each
process. Called without, it serves those that can be served.
"""

import asyncio
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from prefect import flow, serve, task
from prefect.futures import wait

from prefect_replicate import (
    ReplicateModel,
    arun_model,
    create_prediction,
    get_prediction,
    replicate_hooks,
    run_batch,
    run_model,
    stream_model,
)

MODEL = os.environ["MODEL"]
FOLDER = Path(os.environ["FOLDER"])
SLEEP = 100


def asks(text: str) -> dict[str, Any]:
    """What a job gets; the model takes one at a time, and the others wait for their turns."""
    return {"do": "sleep", "text": text, "number": SLEEP}


def begun(name: str) -> None:
    """Say which process it is."""
    (FOLDER / f"{name}.pid").write_text(str(os.getpid()))


@flow(name="task")
def one_task() -> None:
    begun("task")
    run_model(MODEL, asks("task"))


@flow(name="async-tasks")
async def async_tasks() -> None:
    begun("async-tasks")
    await asyncio.gather(*(arun_model(MODEL, asks("async-tasks")) for _ in range(2)))


@flow(name="submitted")
def submitted() -> None:
    begun("submitted")
    one = run_model.submit(MODEL, asks("submitted"))
    other = arun_model.submit(MODEL, asks("submitted"))
    one.wait()
    other.wait()


@flow(name="mapped")
def mapped() -> None:
    begun("mapped")
    wait(run_model.map([MODEL, MODEL], [asks("mapped")] * 2))


@flow(name="subflow")
def subflow() -> None:
    begun("subflow")
    inner()


@flow(name="inner")
def inner() -> None:
    run_model.submit(MODEL, asks("subflow")).wait()


@flow(name="batch")
def batch() -> None:
    run_batch(MODEL, [asks("batch")] * 3)


@flow(name="block")
def block() -> None:
    ReplicateModel(reference=MODEL).run(asks("block"))


@flow(name="stream")
def stream() -> None:
    for piece in stream_model(MODEL, asks("stream")):
        sys.stdout.write(piece)


@flow(name="async-submitted")
async def async_submitted() -> None:
    one = run_model.submit(MODEL, asks("async-submitted"))
    other = arun_model.submit(MODEL, asks("async-submitted"))
    await asyncio.to_thread(one.wait)
    await asyncio.to_thread(other.wait)


@flow(name="sync-in-async")
async def sync_in_async() -> None:
    run_model(MODEL, asks("sync-in-async"))


@task
def outer_task() -> None:
    nested.submit().wait()


@task
def nested() -> None:
    run_model(MODEL, asks("nested"))


@flow(name="nested")
def nested_tasks() -> None:
    outer_task.submit().wait()


@flow(name="timeout")
def timed_out() -> None:
    run_model.with_options(timeout_seconds=8)(MODEL, asks("timeout"))


@flow(name="timeout-async")
async def timed_out_async() -> None:
    await arun_model.with_options(timeout_seconds=8)(MODEL, asks("timeout-async"))


@flow(name="timeout-submitted")
def timed_out_submitted() -> None:
    run_model.with_options(timeout_seconds=8).submit(MODEL, asks("timeout-submitted")).result()


@flow(name="deadline")
def deadline() -> None:
    run_model(MODEL, asks("deadline"), deadline=2)


def no_flow() -> None:
    """Nobody tries a call again that no flow run knows of."""
    ReplicateModel(reference=MODEL).run(asks("no-flow"))


@flow(name="unwaited", **replicate_hooks)
def unwaited() -> None:
    """Nothing of ours waits: only the hook knows of the job when the flow run is canceled."""
    begun("unwaited")
    get_prediction(create_prediction(MODEL, asks("unwaited")))
    time.sleep(SLEEP)


SERVED = (one_task, async_tasks, submitted, mapped, subflow, unwaited)
ALL: dict[str, Callable[[], Any]] = {
    each.name: each
    for each in (
        *SERVED,
        batch,
        block,
        stream,
        async_submitted,
        sync_in_async,
        nested_tasks,
        timed_out,
        timed_out_async,
        timed_out_submitted,
        deadline,
    )
} | {"no-flow": no_flow}


def run(name: str) -> None:
    """Run one, as a script does."""
    begun(name)
    made = ALL[name]()
    if asyncio.iscoroutine(made):
        asyncio.run(made)


def processes(names: list[str]) -> Generator[tuple[str, int], None, None]:
    """A process for each, and how each has ended. All that takes long is imported already."""
    running = {}
    for name in names:
        if (child := os.fork()) == 0:
            status = 1
            try:
                run(name)
                status = 0
            except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a script
                traceback.print_exc()
            finally:
                sys.exit(status)
        running[child] = name
    while running:
        child, status = os.wait()
        yield running.pop(child), os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    if names := sys.argv[1:]:
        for name, status in processes(names):
            sys.stdout.write(f"{name} {status}\n")
            sys.stdout.flush()
    else:
        served: Any = [each.to_deployment(name="served") for each in SERVED]
        serve(*served, pause_on_shutdown=False)
