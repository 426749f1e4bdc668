"""A transaction that is rolled back leaves no job running that was made in it."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.transactions import CommitMode, atransaction, transaction

from prefect_replicate import (
    LocalReplicate,
    Prediction,
    ReplicateCredentials,
    ReplicateModel,
    acreate_prediction,
    create_prediction,
    create_training,
    run_model,
)
from tests.tasks.conftest import jobs


class StopHere(Exception):
    """Something goes wrong after the job was made."""


class Making:
    """Ways to make a job that runs for a while."""

    def __init__(self, replicate: LocalReplicate, paid: ReplicateCredentials, model: str) -> None:
        self.replicate, self.paid, self.model = replicate, paid, model
        self.block = ReplicateModel(reference=model, credentials=paid)

    def prediction(self, number: int = 60, **says: Any) -> Prediction:
        given = {"do": "sleep", "number": number}
        made: Prediction = create_prediction(self.model, given, credentials=self.paid, **says)
        return made

    def triggered(self) -> Prediction:
        return self.block.trigger({"do": "sleep", "number": 60}).job

    def submitted(self) -> Prediction:
        given = {"do": "sleep", "number": 60}
        future = create_prediction.submit(self.model, given, credentials=self.paid)
        made: Prediction = future.result()
        return made

    def status(self, job: Prediction) -> str:
        headers = {"Authorization": f"Bearer {self.replicate.token}"}
        url = f"{self.replicate.base_url}/v1/predictions/{job.id}"
        return str(httpx.get(url, headers=headers).raise_for_status().json()["status"])

    def cancel(self, job: Prediction) -> None:
        headers = {"Authorization": f"Bearer {self.replicate.token}"}
        url = f"{self.replicate.base_url}/v1/predictions/{job.id}/cancel"
        httpx.post(url, headers=headers).raise_for_status()


@pytest.fixture
def making(
    prefect_server: None,
    replicate: LocalReplicate,
    credentials: ReplicateCredentials,
    tiny_model: str,
) -> Making:
    replicate.reset()
    return Making(replicate, credentials, tiny_model)


RUNNING = {"starting", "processing"}
WAYS: list[tuple[Callable[[Making], Prediction], BaseException]] = [
    (Making.prediction, StopHere()),
    (Making.triggered, StopHere()),
    (Making.submitted, StopHere()),
    (Making.prediction, KeyboardInterrupt()),
]


@pytest.mark.parametrize(("way", "end"), WAYS)
def test_a_job_that_was_made_in_a_transaction_is_canceled_when_that_is_rolled_back(
    making: Making, way: Callable[[Making], Prediction], end: BaseException
) -> None:
    made: list[Prediction] = []

    @flow(persist_result=False)
    def asks() -> None:
        made.append(making.prediction())
        with transaction():
            made.append(way(making))
            raise end

    with pytest.raises(type(end)):
        asks()
    assert making.status(made[0]) in RUNNING
    assert making.status(made[1]) == "canceled"
    making.cancel(made[0])


PROGRAM = """
import signal, sys
from prefect import flow
from prefect.exceptions import TerminationSignal
from prefect.transactions import transaction
from prefect_replicate import create_prediction

@flow
def asks():
    with transaction():
        create_prediction(sys.argv[1], {"do": "sleep", "number": 60})
        # What Prefect raises in a run that is canceled in the UI, and in one that is to end.
        raise TerminationSignal(signal=signal.SIGTERM)

asks()
"""


def test_the_same_in_a_process_that_is_terminated(making: Making) -> None:
    # Prefect ends the process by the signal itself.
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, making.model],
        env={
            **os.environ,
            "PREFECT_API_URL": str(get_current_settings().api.url),
            "REPLICATE_BASE_URL": making.replicate.base_url,
            "REPLICATE_API_TOKEN": making.replicate.token,
        },
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert [job["status"] for job in jobs(making.replicate)] == ["canceled"], ran.stderr


async def test_the_same_in_an_async_flow(making: Making) -> None:
    made: list[Prediction] = []

    @flow(persist_result=False)
    async def asks() -> None:
        async with atransaction():
            given = {"do": "sleep", "number": 60}
            made.append(await acreate_prediction(making.model, given, credentials=making.paid))
            run = await making.block.atrigger(given)
            made.append(run.job)
            raise StopHere

    with pytest.raises(StopHere):
        await asks()
    assert [making.status(job) for job in made] == ["canceled"] * 2


async def test_the_same_when_the_flow_is_cancelled_from_outside(making: Making) -> None:
    made: list[Prediction] = []

    @flow(persist_result=False)
    async def asks() -> None:
        async with atransaction():
            given = {"do": "sleep", "number": 60}
            made.append(await acreate_prediction(making.model, given, credentials=making.paid))
            await asyncio.sleep(60)

    running = asyncio.ensure_future(asks())
    while not made:
        await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert making.status(made[0]) == "canceled"


def test_a_flow_that_is_run_again_after_it_makes_another_job(making: Making) -> None:
    made: list[Prediction] = []

    @flow(persist_result=False, retries=1)
    def asks() -> None:
        with transaction():
            made.append(making.prediction())
            if flow_run.get_run_count() == 1:
                raise StopHere

    asks()
    assert len({job.id for job in made}) == 2
    assert making.status(made[0]) == "canceled"
    assert making.status(made[1]) in RUNNING
    making.cancel(made[1])


def test_a_task_that_fails_by_itself_keeps_its_job(making: Making) -> None:
    made: list[Prediction] = []

    @task(cache_policy=NO_CACHE)
    def asking() -> None:
        made.append(making.prediction())
        raise StopHere

    @flow(persist_result=False)
    def asks() -> None:
        asking()

    @flow(persist_result=False)
    def asks_by_itself() -> None:
        asking.fn()

    for one in (asks, asks_by_itself):
        with pytest.raises(StopHere):
            one()
    # Whoever runs the flow again finds it.
    assert {making.status(job) for job in made} <= RUNNING
    for job in made:
        making.cancel(job)


def test_a_task_in_a_transaction_keeps_its_job_from_try_to_try_and_loses_it_with_the_last(
    making: Making,
) -> None:
    made: list[Prediction] = []
    seen: list[str] = []

    @task(retries=2, cache_policy=NO_CACHE)
    def asking() -> None:
        seen.extend(making.status(job) for job in made)
        made.append(making.prediction())
        raise StopHere

    @flow(persist_result=False)
    def asks() -> None:
        with transaction():
            asking()

    with pytest.raises(StopHere):
        asks()
    assert len(made) == 3
    assert len({job.id for job in made}) == 1
    assert set(seen) <= RUNNING
    assert making.status(made[0]) == "canceled"


def test_a_task_without_retries_that_fails_in_a_transaction_leaves_no_job(making: Making) -> None:
    made: list[Prediction] = []

    @task(cache_policy=NO_CACHE)
    def asking() -> None:
        made.append(making.prediction())
        raise StopHere

    @flow(persist_result=False)
    def asks() -> None:
        with transaction():
            asking()

    with pytest.raises(StopHere):
        asks()
    assert making.status(made[0]) == "canceled"


def test_a_transaction_inside_a_task_is_the_users_too(making: Making) -> None:
    made: list[Prediction] = []

    def fails(key: str | None) -> None:
        with transaction(key=key):
            made.append(making.prediction())
            raise StopHere

    @task(cache_policy=NO_CACHE, retries=3)
    def asking(key: str | None) -> str:
        with pytest.raises(StopHere):
            fails(key)
        return making.status(made[-1])

    @flow(persist_result=False)
    def asks() -> list[str]:
        return [asking(None), asking("key")]

    assert asks() == ["canceled", "canceled"]


def test_what_was_committed_at_once_is_not_undone(making: Making) -> None:
    made: list[Prediction] = []

    @flow(persist_result=False)
    def asks() -> None:
        with transaction(commit_mode=CommitMode.EAGER):
            made.append(making.prediction())
            raise StopHere

    with pytest.raises(StopHere):
        asks()
    assert making.status(made[0]) in RUNNING
    making.cancel(made[0])


def test_a_job_that_has_ended_is_left_as_it_is_and_a_training_is_canceled(
    making: Making, caplog: pytest.LogCaptureFixture
) -> None:
    data = "data:text/plain;base64,aGVsbG8="
    httpx.post(
        f"{making.replicate.base_url}/v1/models",
        json={"owner": "local", "name": "trained", "visibility": "private", "hardware": "cpu"},
        headers={"Authorization": f"Bearer {making.replicate.token}"},
    )

    @flow(persist_result=False)
    def asks() -> None:
        with transaction():
            run_model(making.model, {}, credentials=making.paid)
            create_training(
                making.model, "local/trained", {"training_data": data}, credentials=making.paid
            )
            raise StopHere

    with (
        making.replicate.fault("cold_boot", seconds=30, after=1),
        pytest.raises(StopHere),
        caplog.at_level(logging.INFO),
    ):
        asks()
    (prediction,) = jobs(making.replicate)
    (training, *_) = jobs(making.replicate, "trainings")
    assert (prediction["status"], training["status"]) == ("succeeded", "canceled")
    assert "had ended already, as 'succeeded'" in caplog.text
    assert f"Training {training['id']} was canceled" in caplog.text


def test_a_rollback_goes_on_when_the_job_cannot_be_canceled(
    making: Making, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Prediction] = []
    undone: list[str] = []

    @task
    def other() -> None: ...

    @other.on_rollback
    def undo(_: object) -> None:
        undone.append("other")

    @flow(persist_result=False)
    def asks() -> None:
        with transaction():
            other()
            made.append(making.prediction())
            raise StopHere

    with (
        making.replicate.fault("no_credit", path="/predictions/*", after=0, times=None),
        pytest.raises(StopHere),
    ):
        asks()
    assert undone == ["other"]
    assert "may run on and cost money" in caplog.text
    making.cancel(made[0])
