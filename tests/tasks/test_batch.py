"""Batches: in order, each by itself, and nothing that was paid for is lost."""

import asyncio
import pickle
import time
from typing import Any

import pytest

from prefect_replicate import (
    BadInputError,
    BatchError,
    LocalReplicate,
    ModelError,
    ReplicateCredentials,
    arun_batch,
    release_deployment,
    run_batch,
)
from tests.tasks.conftest import jobs


def test_outputs_come_in_the_order_of_the_inputs(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    inputs = [{"text": str(number)} for number in range(20)]
    batch = run_batch(tiny_model, inputs, credentials=credentials)
    assert [one.output for one in batch] == [str(number) for number in range(20)]


def test_one_that_fails_takes_no_other_down_and_nothing_is_lost(
    credentials: ReplicateCredentials, tiny_model: str, replicate: LocalReplicate
) -> None:
    before = len(jobs(replicate))
    inputs: list[dict[str, Any]] = [
        {"text": "a"},
        {"do": "fail", "text": "no luck"},
        {"text": 7},
        {"text": "d"},
    ]
    with pytest.raises(BatchError, match=r"2 of 4 predictions of .* gave no output") as caught:
        run_batch(tiny_model, inputs, credentials=credentials)
    error = pickle.loads(pickle.dumps(caught.value))
    assert [one and one.output for one in error.predictions] == ["a", None, None, "d"]
    assert {at: type(one) for at, one in error.errors.items()} == {1: ModelError, 2: BadInputError}
    assert "no luck" in str(error.errors[1])
    assert len(jobs(replicate)) == before + 3  # The one that was refused never ran.


def test_a_passing_trouble_costs_one_prediction_more_and_not_all(
    credentials: ReplicateCredentials,
    tiny_model: str,
    replicate: LocalReplicate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prefect_replicate.jobs.batch.RETRY_DELAYS", (0.0,))
    before = len(jobs(replicate))
    passing = {"do": "fail", "text": "interrupted; please retry (code: PA)"}
    with pytest.raises(BatchError):
        run_batch.with_options(retries=2)(
            tiny_model, [{"text": "a"}, passing, {"text": "c"}], credentials=credentials
        )
    assert len(jobs(replicate)) == before + 4


def test_what_is_wrong_for_all_is_not_sent_for_all(
    wrong: ReplicateCredentials, tiny_model: str
) -> None:
    with pytest.raises(BatchError) as caught:
        run_batch(tiny_model, [{}] * 50, credentials=wrong, at_once=1)
    assert len({id(error) for error in caught.value.errors.values()}) == 1
    assert len(caught.value.errors) == 50
    assert str(caught.value).endswith("became of each of these.")
    assert len(str(caught.value)) < 3000


def test_a_deployment_runs_batches_too(credentials: ReplicateCredentials, tiny_model: str) -> None:
    deployment = release_deployment("batches", tiny_model, "cpu", credentials=credentials)
    batch = run_batch(
        None, [{"text": "x"}] * 3, deployment=deployment.reference, credentials=credentials
    )
    assert [one.deployment for one in batch] == ["batches"] * 3


async def test_an_interrupted_batch_cancels_what_runs(
    credentials: ReplicateCredentials, tiny_model: str, replicate: LocalReplicate
) -> None:
    slow = {"do": "sleep", "number": 60}
    running = asyncio.create_task(arun_batch(tiny_model, [slow] * 4, credentials=credentials))
    before = len(await asyncio.to_thread(jobs, replicate))
    deadline = time.monotonic() + 20
    while len(await asyncio.to_thread(jobs, replicate)) < before + 4:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    newest = (await asyncio.to_thread(jobs, replicate))[:4]
    assert [one["status"] for one in newest] == ["canceled"] * 4


@pytest.mark.parametrize("asked", [{"inputs": []}, {"inputs": [{}], "at_once": 0}])
def test_a_batch_of_nothing_is_refused(
    credentials: ReplicateCredentials, tiny_model: str, asked: dict[str, Any]
) -> None:
    with pytest.raises(BadInputError, match="Nothing was sent"):
        run_batch(tiny_model, **asked, credentials=credentials)
