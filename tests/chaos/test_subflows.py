"""Flows in flows: when the outer one is run again, Prefect makes others of them, but no other jobs.

And who cancels the outer one cancels the jobs of the inner ones.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run, task_run
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Crashed

from prefect_replicate import JobCanceled, arun_model, run_model
from tests.chaos.conftest import World

PROGRAM = Path(__file__).with_name("nested.py")


async def asked(world: World, text: str = "same", how: Any = arun_model) -> str:
    """Run the model; the job's id."""
    return str((await how(world.model, {"text": text}, credentials=world.credentials)).id)


def first_time() -> bool:
    """Whether the flow that asks runs for the first time."""
    return bool(flow_run.run_count == 1)


def jobs_of(world: World) -> set[str]:
    """The ids of all jobs; each was asked for once."""
    ids = {job["id"] for job in world.jobs()}
    assert len(world.creates()) == len(ids)
    return ids


@pytest.mark.parametrize("fails", ["the parent", "the subflow"])
@pytest.mark.parametrize("how", [arun_model, arun_model.fn], ids=["as a task", "as a function"])
async def test_a_subflow_has_its_job_again_when_its_parent_is_run_again(
    world: World, fails: str, how: Any
) -> None:
    runs: list[Any] = []
    made: list[str] = []

    @flow(persist_result=False)
    async def inner() -> None:
        runs.append(flow_run.id)
        made.append(await asked(world, how=how))
        if fails == "the subflow" and len(runs) == 1:
            raise RuntimeError("after the job")

    @flow(retries=1, persist_result=False)
    async def outer() -> None:
        await inner()
        if first_time():
            raise RuntimeError("after the subflow")

    await outer()
    assert len(set(runs)) == 2, "Prefect does not make another run of the subflow any more"
    assert made[0] == made[1]
    assert jobs_of(world) == set(made)


async def test_a_subflow_called_twice_has_two_jobs_and_the_same_two_when_run_again(
    world: World,
) -> None:
    made: list[set[str]] = []

    @flow(persist_result=False)
    async def inner() -> str:
        return await asked(world)

    @flow(retries=1, persist_result=False)
    async def outer() -> None:
        made.append(set(await asyncio.gather(inner(), inner(), asked(world))))
        if first_time():
            raise RuntimeError("after the subflows")

    await outer()
    assert made[0] == made[1] == jobs_of(world)
    assert len(made[0]) == 3


async def test_a_subflow_that_is_retried_by_itself_has_its_jobs_again(world: World) -> None:
    made: list[set[str]] = []

    @task(retries=1)
    async def within() -> str:
        """A task that is retried in every try of the flow that is retried."""
        one = await asked(world)
        if task_run.run_count == 1:
            raise RuntimeError("after the job of the task")
        return one

    @flow(retries=1, persist_result=False)
    async def inner() -> None:
        as_task, as_function = asked(world), asked(world, how=arun_model.fn)
        made.append(set(await asyncio.gather(as_task, as_function, within())))
        if first_time():
            raise RuntimeError("after the jobs")

    @flow(persist_result=False)
    async def outer() -> str:
        await inner()
        return await asked(world)

    one_more = await outer()
    assert made[0] == made[1]
    assert len(made[0]) == 3
    assert jobs_of(world) == made[0] | {one_more}
    assert one_more not in made[0]


async def test_a_flow_in_a_task_in_a_flow_has_its_jobs_again_whichever_is_retried(
    world: World,
) -> None:
    failed: set[str] = set()
    made: list[set[str]] = []

    def fail_once(what: str) -> None:
        if what not in failed:
            failed.add(what)
            raise RuntimeError(f"once in {what}")

    @flow(retries=1, persist_result=False)
    async def inner() -> None:
        ids = await asyncio.gather(asked(world), asked(world), asked(world, how=arun_model.fn))
        made.append(set(ids))
        fail_once("the subflow")

    @task(retries=1)
    async def around() -> None:
        await inner()
        fail_once("the task")

    @flow(retries=1, persist_result=False)
    async def outer() -> None:
        await around()
        fail_once("the flow")

    await outer()
    assert made == [jobs_of(world)] * 4
    assert len(made[0]) == 3


def test_sync_subflows_of_submitted_tasks_have_their_jobs_again(world: World) -> None:
    made: list[set[str]] = []

    @flow(persist_result=False)
    def inner() -> str:
        return run_model(world.model, {"text": "same"}, credentials=world.credentials).id

    @task
    def around() -> str:
        return inner()

    @flow(retries=1, persist_result=False)
    def outer() -> None:
        futures = [around.submit() for _ in range(2)]
        made.append({future.result() for future in futures})
        if first_time():
            raise RuntimeError("after the subflows")

    outer()
    assert made[0] == made[1] == jobs_of(world)
    assert len(made[0]) == 2


def test_a_process_killed_in_a_subflow_leaves_its_job_to_the_next(world: World) -> None:
    def program(hang: str, *command: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PREFECT_API_URL": str(get_current_settings().api.url),
            "REPLICATE_BASE_URL": world.replicate.base_url,
            "REPLICATE_API_TOKEN": world.replicate.token,
            "MODEL": world.model,
            "HANG": hang,
        }
        return subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.PIPE, text=True
        )

    def job(running: subprocess.Popen[str]) -> str:
        assert running.stdout
        return next(line for line in running.stdout if line.startswith("JOB "))

    first = program("yes", str(PROGRAM))
    try:
        made = job(first)
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=2, sort="EXPECTED_START_TIME_DESC")  # type: ignore[arg-type]  # its name will do
        (root,) = [run.id for run in runs if run.parent_task_run_id is None]
        client.set_flow_run_state(root, Crashed(), force=True)
    entrypoint = ["--entrypoint", f"{PROGRAM}:outer"]
    again = program("", "-m", "prefect", "flow-run", "retry", str(root), *entrypoint)
    assert job(again) == made
    again.communicate(timeout=60)
    assert len(jobs_of(world)) == 1


def test_a_flow_canceled_in_the_ui_cancels_the_jobs_of_the_flows_in_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_LOOK_EVERY", "0.2")

    def cancel(run: UUID) -> None:
        waiting = threading.Event()
        while not world.creates():
            waiting.wait(0.05)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run, Cancelling(), force=True)

    @flow
    def inner() -> None:
        sleep = {"do": "sleep", "number": 97}
        run_model.submit(world.model, sleep, credentials=world.credentials).result()

    @flow
    def outer() -> None:
        threading.Thread(target=cancel, args=[UUID(str(flow_run.id))]).start()
        inner()

    with pytest.raises(JobCanceled, match=r"flow run is being canceled.*was canceled"):
        outer()
    assert [job["status"] for job in world.jobs()] == ["canceled"]
