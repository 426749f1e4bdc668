"""Running models from flows: both doors, every kind of reference, every way to go wrong."""

import asyncio
import logging
import pickle

import pytest
from prefect import flow

from prefect_replicate import (
    AuthenticationError,
    BadInputError,
    BadReferenceError,
    DeadlineExceeded,
    JobCanceled,
    LocalReplicate,
    ModelError,
    NotFoundError,
    Prediction,
    ReplicateCredentials,
    acancel_prediction,
    acreate_prediction,
    aget_prediction,
    arun_model,
    await_for_prediction,
    cancel_prediction,
    create_prediction,
    get_prediction,
    release_deployment,
    run_model,
    wait_for_prediction,
)
from tests.tasks.conftest import jobs

ECHO = {"do": "echo", "text": "hello"}
SLEEP = {"do": "sleep", "number": 60}


def test_a_sync_flow_runs_a_model(credentials: ReplicateCredentials, tiny_model: str) -> None:
    @flow
    def hello() -> Prediction:
        return run_model(tiny_model, ECHO, credentials=credentials)

    prediction = hello()
    assert (prediction.output, prediction.status) == ("hello", "succeeded")
    assert prediction.metrics["length"] == 5
    assert prediction.metrics["predict_time"] > 0


async def test_an_async_flow_runs_models_side_by_side(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    @flow
    async def hello() -> list[Prediction]:
        runs = [arun_model(tiny_model, {"text": str(n)}, credentials=credentials) for n in range(5)]
        return await asyncio.gather(*runs)

    assert [prediction.output for prediction in await hello()] == ["0", "1", "2", "3", "4"]


def test_a_submitted_run_gives_its_prediction(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    @flow
    def hello() -> list[Prediction]:
        runs = [run_model.submit(tiny_model, ECHO, credentials=credentials) for _ in range(3)]
        return [run.result() for run in runs]

    # Equal calls mean as many samples: three jobs, not one and two copies.
    assert len({prediction.id for prediction in hello()}) == 3


def test_it_works_outside_of_a_flow(credentials: ReplicateCredentials, tiny_model: str) -> None:
    assert run_model(tiny_model, ECHO, credentials=credentials).output == "hello"


async def test_the_sync_name_is_sync_inside_a_running_loop(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    assert run_model(tiny_model, ECHO, credentials=credentials).output == "hello"


async def test_every_kind_of_reference_finds_its_model(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    await asyncio.to_thread(
        release_deployment, "by-ref", tiny_model, "cpu", credentials=credentials
    )
    for ref in (tiny_model, tiny_model.partition(":")[0], tiny_model.partition(":")[2]):
        assert (await arun_model(ref, ECHO, credentials=credentials)).output == "hello"
    by_deployment = await arun_model(input=ECHO, deployment="local/by-ref", credentials=credentials)
    assert by_deployment.deployment == "by-ref"


def test_the_steps_by_themselves(credentials: ReplicateCredentials, tiny_model: str) -> None:
    started = create_prediction(tiny_model, ECHO, credentials=credentials)
    assert not started.done
    assert wait_for_prediction(started, credentials=credentials).output == "hello"
    assert get_prediction(started.id, credentials=credentials).status == "succeeded"
    assert wait_for_prediction(started.id, credentials=credentials).output == "hello"


async def test_the_steps_by_themselves_async(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    started = await acreate_prediction(tiny_model, SLEEP, credentials=credentials)
    await acancel_prediction(started, credentials=credentials)
    with pytest.raises(JobCanceled, match=started.id):
        await await_for_prediction(started, credentials=credentials)
    assert (await aget_prediction(started, credentials=credentials)).status == "canceled"


def test_a_finished_prediction_cannot_be_canceled_any_more(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    done = run_model(tiny_model, ECHO, credentials=credentials)
    assert cancel_prediction(done, credentials=credentials).status == "succeeded"


def test_a_models_own_failure_has_its_words_and_its_prediction(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    with pytest.raises(ModelError, match="no such colour") as caught:
        run_model(tiny_model, {"do": "fail", "text": "no such colour"}, credentials=credentials)
    assert caught.value.prediction is not None
    assert caught.value.prediction.status == "failed"
    assert pickle.loads(pickle.dumps(caught.value)).prediction == caught.value.prediction


def test_input_that_the_schema_refuses_is_named_and_costs_nothing(
    credentials: ReplicateCredentials, tiny_model: str, replicate: LocalReplicate
) -> None:
    before = len(jobs(replicate))
    with pytest.raises(BadInputError, match="number") as caught:
        run_model(tiny_model, {"number": 101}, credentials=credentials)
    assert "nothing was charged" in str(caught.value)
    assert len(jobs(replicate)) == before


def test_an_unknown_model_a_malformed_reference_and_a_wrong_token_have_errors_of_their_own(
    credentials: ReplicateCredentials, wrong: ReplicateCredentials, tiny_model: str
) -> None:
    with pytest.raises(NotFoundError, match="local/nobody"):
        run_model("local/nobody", ECHO, credentials=credentials)
    with pytest.raises(BadReferenceError, match="'tiny'"):
        run_model("tiny", ECHO, credentials=credentials)
    with pytest.raises(BadInputError, match="either a model or a deployment"):
        run_model(tiny_model, ECHO, deployment="local/x", credentials=credentials)
    with pytest.raises(BadInputError, match="either a model or a deployment"):
        run_model(input=ECHO, credentials=credentials)
    with pytest.raises(AuthenticationError, match="401"):
        run_model(tiny_model, ECHO, credentials=wrong)
    with pytest.raises(BadInputError, match="is not an id"):
        get_prediction("../account", credentials=credentials)


def test_a_deadline_cancels_the_job_and_says_so(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    # More than the 5 s that Replicate takes for a Cancel-After, so that it could be the first.
    with pytest.raises(DeadlineExceeded, match=r"deadline of 5.5 s passed.*was canceled") as caught:
        run_model(tiny_model, SLEEP, credentials=credentials, deadline=5.5)
    assert isinstance(caught.value.job, Prediction)
    assert caught.value.job.deadline is not None
    assert caught.value.job is not None
    assert get_prediction(caught.value.job.id, credentials=credentials).status == "canceled"


async def test_a_cancelled_caller_leaves_nothing_running(
    credentials: ReplicateCredentials, tiny_model: str, replicate: LocalReplicate
) -> None:
    running = asyncio.ensure_future(arun_model(tiny_model, SLEEP, credentials=credentials))
    while (await asyncio.to_thread(jobs, replicate))[0]["input"] != SLEEP:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await asyncio.to_thread(jobs, replicate))[0]["status"] == "canceled"


@pytest.mark.parametrize(
    ("says", "created"),
    [("no such colour", 1), ("interrupted; please retry (code: PA)", 3)],
    ids=["permanent", "transient"],
)
def test_only_passing_failures_are_tried_again(
    credentials: ReplicateCredentials,
    tiny_model: str,
    replicate: LocalReplicate,
    says: str,
    created: int,
) -> None:
    before = len(jobs(replicate))
    with pytest.raises(ModelError):
        run_model.with_options(retries=2, retry_delay_seconds=0)(
            tiny_model, {"do": "fail", "text": says}, credentials=credentials
        )
    assert len(jobs(replicate)) - before == created


def test_the_models_log_is_in_the_runs_log(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Collect()
    logging.getLogger("prefect.task_runs").addHandler(handler)

    @flow
    def talk() -> None:
        asked = {"do": "lines", "number": 3, "text": "line"}
        run_model(tiny_model, asked, credentials=credentials)

    try:
        talk()
    finally:
        logging.getLogger("prefect.task_runs").removeHandler(handler)
    assert [line for line in lines if line.startswith("line ")] == ["line 0", "line 1", "line 2"]
