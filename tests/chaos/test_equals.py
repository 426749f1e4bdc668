"""Calls that ask the same: as many jobs as calls, and each call has its own again."""

import asyncio
import threading
import time
from typing import Any

import pytest
from prefect import flow, task
from prefect.runtime import flow_run, task_run
from starlette.requests import Request
from starlette.responses import Response

from prefect_replicate import (
    ReplicateCredentials,
    arun_model,
    run_batch,
    run_model,
    train_model,
)
from tests.chaos.conftest import FULL_SIZE, Again, World
from tests.chaos.proxy import Proxy
from tests.chaos.test_lost import DATA


def test_fifty_equal_calls_of_a_batch_have_fifty_jobs_and_the_same_when_run_again(
    world: World,
) -> None:
    asked = Again(
        lambda: run_batch(world.model, [{"text": "same"}] * 50, credentials=world.credentials)
    )
    first = {job.id for job in asked.first()}
    assert first == {job["id"] for job in world.jobs()}
    assert {job.id for job in asked.again()} == first
    assert len(world.creates()) == len(first) == 50


@pytest.mark.parametrize("equal", [True, False])
def test_a_batch_whose_answers_are_all_lost_has_a_job_for_each_input(
    world: World, equal: bool
) -> None:
    texts = ["same" if equal else str(number) for number in range(12)]
    inputs = [{"text": text} for text in texts]
    asked = Again(lambda: run_batch(world.model, inputs, credentials=world.credentials))
    with world.replicate.fault("drop_after", method="POST", path="/predictions", times=None):
        first = asked.first()
    assert [job.output for job in first] == texts
    assert {job.id for job in first} == {job["id"] for job in world.jobs()}
    assert {job.id for job in asked.again()} == {job.id for job in first}
    assert len(world.creates()) == len(texts)


async def test_equal_calls_at_once_in_an_async_flow_have_their_own_jobs_in_a_retry_too(
    world: World,
) -> None:
    seen: list[set[str]] = []

    @flow(retries=1, persist_result=False)
    async def asks() -> None:
        calls = [
            arun_model(world.model, {"text": "same"}, credentials=world.credentials)
            for _ in range(12)
        ]
        seen.append({made.id for made in await asyncio.gather(*calls)})
        if flow_run.get_run_count() == 1:
            raise RuntimeError("after the jobs")

    await asks()
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(world.creates()) == len(seen[0]) == 12


@pytest.mark.parametrize("lost", ["drop_after", "bad_gateway"] if FULL_SIZE else ["drop_after"])
def test_two_flow_runs_that_ask_the_same_at_once_do_not_mix(world: World, lost: str) -> None:
    runs = [asking(world), asking(world)]
    made: dict[int, str] = {}

    def go(number: int) -> None:
        made[number] = runs[number].first().id

    with world.replicate.fault(lost, method="POST", path="/predictions"):
        threads = [threading.Thread(target=go, args=[number]) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(made.values()) == {job["id"] for job in world.jobs()}
    assert len(world.jobs()) == 2
    assert len(world.creates()) == (2 if lost == "drop_after" else 3)
    assert [run.again().id for run in runs] == [made[0], made[1]]
    assert len(world.jobs()) == 2


def test_of_two_equal_trainings_at_once_only_one_takes_over_what_one_of_them_made(
    world: World,
) -> None:
    def slowly(request: Request, _: bytes) -> Response | None:
        # Both have asked which jobs others have before either can take one.
        if request.method == "GET" and request.url.path == "/v1/trainings":
            time.sleep(0.6)
        return None

    training = {"method": "POST", "path": "/models/*/trainings"}
    with (
        Proxy(world.replicate.base_url, after=slowly).running() as url,
        world.replicate.fault("drop_after", **training),
        world.replicate.fault("drop_before", **training),
    ):
        token = world.credentials.api_token

        def ask() -> set[str]:
            paid = ReplicateCredentials(api_token=token, base_url=url)
            given = {"training_data": DATA}
            asked = [
                train_model.submit(world.model, "local/trained", given, credentials=paid)
                for _ in range(2)
            ]
            return {future.result().id for future in asked}

        made = Again(ask).first()
    assert made == {job["id"] for job in world.jobs("trainings")}
    assert len(made) == 2
    assert len(world.creates()) == 3


@pytest.mark.parametrize("inner", [run_model, run_model.fn], ids=["as a task", "as a function"])
def test_a_task_that_fails_after_its_jobs_has_them_again(world: World, inner: Any) -> None:
    @task(retries=1)
    def asks() -> list[str]:
        made = [
            inner(world.model, {"text": "same"}, credentials=world.credentials).id for _ in range(2)
        ]
        if task_run.run_count == 1:
            raise RuntimeError("after the jobs")
        return made

    made = Again(asks).first()
    assert set(made) == {job["id"] for job in world.jobs()}
    assert len(world.creates()) == 2


def test_what_is_asked_again_after_a_change_of_the_input_is_another_job(world: World) -> None:
    texts = iter(["one", "two"])
    asked = Again(
        lambda: run_model(world.model, {"text": next(texts)}, credentials=world.credentials)
    )
    assert [asked.first().output, asked.again().output] == ["one", "two"]
    assert len(world.jobs()) == 2


def asking(world: World) -> Again:
    return Again(lambda: run_model(world.model, {"text": "same"}, credentials=world.credentials))
