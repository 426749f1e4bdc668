"""Flows in flows: Prefect may give them other ids when the outer one is run again; not other jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.runtime import flow_run, task_run

from prefect_replicate import arun_model, run_model
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
        made.append({await inner(), await inner(), await asked(world)})
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
        made.append({await asked(world), await within(), await asked(world, how=arun_model.fn)})
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
    made: list[tuple[str, str, str]] = []

    def fail_once(what: str) -> None:
        if what not in failed:
            failed.add(what)
            raise RuntimeError(f"once in {what}")

    @flow(retries=1, persist_result=False)
    async def inner() -> tuple[str, str, str]:
        ids = (await asked(world), await asked(world), await asked(world, how=arun_model.fn))
        made.append(ids)
        fail_once("the subflow")
        return ids

    @task(retries=1)
    async def around() -> None:
        await inner()
        fail_once("the task")

    @flow(retries=1, persist_result=False)
    async def outer() -> None:
        await around()
        fail_once("the flow")

    await outer()
    assert len(made) == 4
    assert {frozenset(each) for each in made} == {frozenset(jobs_of(world))}
    assert len(jobs_of(world)) == 3


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
        futures = [around.submit() for _ in range(3)]
        made.append({future.result() for future in futures})
        if first_time():
            raise RuntimeError("after the subflows")

    outer()
    assert made[0] == made[1] == jobs_of(world)
    assert len(made[0]) == 3
