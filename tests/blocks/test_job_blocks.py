"""Blocks that trigger jobs, and the runs that they give: both doors, in a flow and outside."""

import asyncio
import inspect
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow
from prefect.blocks.abstract import JobBlock, JobRun
from prefect.blocks.core import Block
from pydantic import ValidationError

from prefect_replicate import (
    AuthenticationError,
    BadInputError,
    BadReferenceError,
    DeadlineExceeded,
    JobCanceled,
    JobError,
    LocalReplicate,
    ModelError,
    NotFoundError,
    OutputStorage,
    Prediction,
    ReplicateCredentials,
    ReplicateDeployment,
    ReplicateModel,
    ReplicatePredictionRun,
    ReplicateTraining,
    ReplicateTrainingRun,
    ReplicateWebhook,
    Training,
    ensure_model,
    upload_file,
)
from tests.webhooks.conftest import serving

SECRET = "r8_a_token_that_must_never_be_seen_again"
SIGNING = "whsec_" + "A" * 32
VERSION = "me/mine:" + "0" * 64
SLEEP = {"do": "sleep", "number": 60}
FAIL = {"do": "fail", "text": "no such colour"}


@pytest.fixture(scope="module")
def model(
    prefect_server: None, tiny_model: str, credentials: ReplicateCredentials
) -> ReplicateModel:
    return ReplicateModel(reference=tiny_model, credentials=credentials)


@pytest.fixture(scope="module")
def training(
    prefect_server: None, tiny_model: str, credentials: ReplicateCredentials
) -> ReplicateTraining:
    data = upload_file(__file__, credentials=credentials).urls.get
    ensure_model("local/tuned", credentials=credentials)
    return ReplicateTraining(
        version=tiny_model,
        destination="local/tuned",
        input={"training_data": data},
        credentials=credentials,
    )


@pytest.fixture
def deployment(prefect_server: None, credentials: ReplicateCredentials) -> ReplicateDeployment:
    return ReplicateDeployment(
        name=f"block-{uuid4().hex[:8]}", hardware="cpu", max_instances=2, credentials=credentials
    )


@pytest.fixture(scope="module")
def webhook(prefect_server: None, credentials: ReplicateCredentials) -> Iterator[ReplicateWebhook]:
    """A webhook whose receiver runs beside the tests."""
    app = ReplicateWebhook(public_url="http://127.0.0.1", credentials=credentials).receiver()
    with serving(app) as url:
        yield ReplicateWebhook(public_url=url, credentials=credentials)


def _full(kind: type[Block]) -> Any:
    """A block with everything that it can have, its credentials nested twice."""
    own: dict[type[Block], dict[str, Any]] = {
        ReplicateModel: {"reference": "me/mine"},
        ReplicateTraining: {"version": VERSION, "destination": "me/tuned"},
        ReplicateDeployment: {
            "name": "me/mine",
            "hardware": "cpu",
            "min_instances": 0,
            "max_instances": 3,
        },
    }
    credentials = ReplicateCredentials(api_token=SECRET)
    return kind(
        **own[kind],
        input={"prompt": "Hi", "nested": {"numbers": [1, 2.5, None]}},
        credentials=credentials,
        deadline=60,
        webhook=ReplicateWebhook(
            public_url="https://hooks.example.com", signing_secret=SIGNING, credentials=credentials
        ),
    )


KINDS = [ReplicateModel, ReplicateTraining, ReplicateDeployment]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ReplicateCredentials, ["api_token", "base_url"]),
        (OutputStorage, ["url", "options"]),
        (
            ReplicateWebhook,
            ["public_url", "events", "signing_secret", "credentials", "tolerance"],
        ),
        (ReplicateModel, ["reference", "input", "credentials", "deadline", "webhook"]),
        (
            ReplicateTraining,
            ["version", "destination", "input", "credentials", "deadline", "webhook"],
        ),
        (
            ReplicateDeployment,
            [
                "name",
                "hardware",
                "min_instances",
                "max_instances",
                "input",
                "credentials",
                "deadline",
                "webhook",
            ],
        ),
    ],
)
def test_the_fields_of_a_form_stand_in_their_order(kind: type[Block], fields: list[str]) -> None:
    assert list(kind.model_fields) == fields
    properties = kind.model_json_schema()["properties"]
    assert [properties[field]["position"] for field in fields] == list(range(len(fields)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_survives_saving_loading_and_pickling_and_shows_no_secret(
    prefect_server: None, kind: type[Block]
) -> None:
    block = _full(kind)
    assert pickle.loads(pickle.dumps(block)) == block
    block.save("full", overwrite=True)
    loaded: Any = kind.load("full")
    assert type(loaded).__name__ == kind.__name__
    bare = {"include_secrets": True}
    assert loaded.model_dump(context=bare) == block.model_dump(context=bare)
    for credentials in (loaded.credentials, loaded.webhook.credentials):
        assert credentials.api_token.get_secret_value() == SECRET
    assert loaded.webhook.signing_secret.get_secret_value() == SIGNING
    for one in (block, loaded):
        shown = repr(one) + str(one) + one.model_dump_json() + repr(one.model_dump())
        assert SECRET not in shown
        assert SIGNING not in shown


def test_a_block_whose_credentials_are_saved_by_themselves_follows_them(
    model: ReplicateModel, credentials: ReplicateCredentials
) -> None:
    mine = ReplicateCredentials(api_token="r8_old", base_url=credentials.base_url)
    mine.save("shared", overwrite=True)
    ReplicateModel(reference=model.reference, credentials=mine).save("sharing", overwrite=True)
    token = credentials.api_token
    ReplicateCredentials(api_token=token, base_url=mine.base_url).save("shared", overwrite=True)
    loaded = ReplicateModel.load("sharing")
    assert isinstance(loaded, ReplicateModel)
    assert loaded.run().output == "hello"


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (ReplicateModel, {"reference": "mine"}),
        (ReplicateModel, {"reference": "me/mine", "deadline": 0}),
        (ReplicateModel, {"reference": "me/mine", "deadline": float("inf")}),
        (ReplicateModel, {"reference": "me/mine", "input": {"image": Path("x.png")}}),
        (ReplicateTraining, {"destination": "me/tuned", "version": "me/mine"}),
        (ReplicateTraining, {"version": VERSION, "destination": VERSION}),
        (ReplicateDeployment, {"name": "two words"}),
        (ReplicateDeployment, {"name": "a/b/c"}),
        (ReplicateDeployment, {"name": "mine", "min_instances": -1}),
    ],
)
def test_a_block_that_could_not_work_is_refused_when_it_is_made(
    kind: type[Block], wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match=list(wrong)[-1]):
        kind(**wrong)


@pytest.mark.parametrize("kind", [*KINDS, ReplicatePredictionRun, ReplicateTrainingRun])
def test_sync_names_are_sync_and_async_names_async(kind: type) -> None:
    doors = {"trigger", "run", "release", "scale", "wait_for_completion", "fetch_result", "cancel"}
    own = sorted(name for name in doors if hasattr(kind, name))
    assert len(own) >= 2
    for name in own:
        sync, twin = getattr(kind, name), getattr(kind, f"a{name}")
        assert not inspect.iscoroutinefunction(sync)
        assert inspect.iscoroutinefunction(twin)
        assert inspect.signature(sync).parameters == inspect.signature(twin).parameters


def test_they_are_what_prefect_calls_jobs() -> None:
    assert all(issubclass(kind, JobBlock) for kind in KINDS)
    assert issubclass(ReplicatePredictionRun, JobRun)
    assert issubclass(ReplicateTrainingRun, JobRun)


def test_a_model_runs_outside_of_a_flow_and_in_one(model: ReplicateModel) -> None:
    @flow
    def hello() -> Prediction:
        return model.run({"text": "in a flow"})

    assert model.run().output == "hello"
    assert hello().output == "in a flow"


async def test_a_model_runs_for_async_callers_outside_of_a_flow_and_in_one(
    model: ReplicateModel,
) -> None:
    @flow
    async def hello() -> list[Prediction]:
        return await asyncio.gather(*(model.arun({"text": str(n)}) for n in range(3)))

    assert (await model.arun()).output == "hello"
    assert [one.output for one in await hello()] == ["0", "1", "2"]


async def test_the_sync_names_are_sync_inside_a_running_loop_and_in_an_async_flow(
    model: ReplicateModel,
) -> None:
    @flow
    async def hello() -> Prediction:
        run = model.trigger({"text": "in a flow"})
        run.wait_for_completion()
        return run.fetch_result()

    assert model.run().output == "hello"
    assert (await hello()).output == "in a flow"


def test_what_a_call_gives_is_merged_over_the_blocks_input(model: ReplicateModel) -> None:
    block = model.model_copy(update={"input": {"text": "of the block", "number": 3}})
    assert block.run().input == {"text": "of the block", "number": 3}
    assert block.run({"text": "of the call", "do": "echo"}).input == {
        "text": "of the call",
        "number": 3,
        "do": "echo",
    }
    assert block.input == {"text": "of the block", "number": 3}


def test_a_run_is_found_again_after_pickling_and_by_its_id(
    model: ReplicateModel, credentials: ReplicateCredentials
) -> None:
    run = model.trigger({"do": "sleep", "number": 1, "text": "slow"})
    copy = pickle.loads(pickle.dumps(run))
    again = ReplicatePredictionRun.from_id(copy.id, credentials=credentials)
    assert run.id == copy.id == again.id
    for one in (again, copy, run):
        one.wait_for_completion()
        assert one.fetch_result().output == "slow"
        assert isinstance(one.fetch_result(), Prediction)


def test_another_process_goes_on_from_the_id(
    model: ReplicateModel, replicate: LocalReplicate
) -> None:
    run = model.trigger({"text": "from elsewhere"})
    program = (
        "import sys\n"
        "from prefect_replicate import ReplicatePredictionRun\n"
        "run = ReplicatePredictionRun.from_id(sys.argv[1])\n"
        "run.wait_for_completion()\n"
        "print(run.fetch_result().output)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, run.id],
        env={
            **os.environ,
            "REPLICATE_API_TOKEN": replicate.token,
            "REPLICATE_BASE_URL": replicate.base_url,
        },
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.stdout.strip() == "from elsewhere"


async def test_a_run_has_async_doors_to_everything(
    model: ReplicateModel, credentials: ReplicateCredentials
) -> None:
    run = await model.atrigger()
    await run.await_for_completion()
    assert (await run.afetch_result()).output == "hello"
    slow = await model.atrigger(SLEEP)
    assert (await slow.acancel()).status == "canceled"
    with pytest.raises(JobCanceled, match=slow.id):
        await ReplicatePredictionRun.from_id(
            slow.id, credentials=credentials
        ).await_for_completion()


def test_a_result_that_is_not_there_yet_is_an_error_and_the_job_goes_on(
    model: ReplicateModel,
) -> None:
    run = model.trigger({"do": "sleep", "number": 2})
    with pytest.raises(JobError, match=rf"{run.id}.*goes on.*wait_for_completion") as caught:
        run.fetch_result()
    assert caught.value.job is not None
    assert not caught.value.job.done
    run.wait_for_completion()
    assert run.fetch_result().status == "succeeded"


def test_a_result_needs_no_wait_once_the_job_has_ended(
    model: ReplicateModel, credentials: ReplicateCredentials
) -> None:
    done = model.run()
    assert ReplicatePredictionRun.from_id(done.id, credentials=credentials).fetch_result() == done


def test_an_end_that_was_seen_is_kept_and_nothing_is_asked_again(
    model: ReplicateModel, tmp_path: Path
) -> None:
    with LocalReplicate() as short_lived:
        version = short_lived.push(_tiny_folder(tmp_path), "local/tiny")
        block = ReplicateModel(reference=version, credentials=short_lived.credentials)
        good, bad = block.trigger(), block.trigger({"text": "bad"})
        good.wait_for_completion()
        with pytest.raises(ModelError):
            bad.wait_for_completion()
        canceled = block.trigger({"text": "slow"})
        canceled.cancel()
    # Nobody is there any more to be asked.
    good = pickle.loads(pickle.dumps(good))
    assert good.fetch_result().output == "hello"
    good.wait_for_completion()
    assert good.cancel().status == "succeeded"
    with pytest.raises(ModelError, match="told to"):
        bad.fetch_result()
    with pytest.raises(JobCanceled):
        canceled.fetch_result()


def _tiny_folder(tmp_path: Path) -> Path:
    (tmp_path / "cog.yaml").write_text(
        'build: {python_version: "3.11"}\npredict: predict.py:Predictor\n'
    )
    (tmp_path / "predict.py").write_text(
        "import time\n"
        "from cog import BasePredictor\n"
        "class Predictor(BasePredictor):\n"
        "    def predict(self, text: str = 'hello') -> str:\n"
        "        if text == 'bad':\n"
        "            raise ValueError('told to')\n"
        "        if text == 'slow':\n"
        "            for _ in range(600):\n"
        "                time.sleep(0.05)\n"
        "        return text\n"
    )
    return tmp_path


def test_a_failure_has_the_models_words_however_it_is_asked_for(
    model: ReplicateModel, credentials: ReplicateCredentials
) -> None:
    with pytest.raises(ModelError, match="no such colour"):
        model.run(FAIL)
    run = model.trigger(FAIL)
    for _ in range(2):
        with pytest.raises(ModelError, match="no such colour"):
            run.wait_for_completion()
    with pytest.raises(ModelError, match="no such colour") as caught:
        ReplicatePredictionRun.from_id(run.id, credentials=credentials).fetch_result()
    assert caught.value.job is not None
    assert caught.value.job.id == run.id


def test_a_run_can_be_canceled_more_than_once_and_not_after_its_end(
    model: ReplicateModel, credentials: ReplicateCredentials
) -> None:
    run = model.trigger(SLEEP)
    again = ReplicatePredictionRun.from_id(run.id, credentials=credentials)
    assert [one.cancel().status for one in (run, run, again)] == ["canceled"] * 3
    with pytest.raises(JobCanceled):
        run.fetch_result()
    done = ReplicatePredictionRun.from_id(model.run().id, credentials=credentials)
    assert done.cancel().status == "succeeded"


def test_a_deadline_is_the_blocks_unless_the_wait_has_its_own(
    model: ReplicateModel, credentials: ReplicateCredentials
) -> None:
    short = model.model_copy(update={"deadline": 0.5})
    with pytest.raises(DeadlineExceeded, match=r"deadline of 0.5 s"):
        short.run(SLEEP)
    run = short.trigger(SLEEP)
    assert run.job.deadline is not None
    with pytest.raises(DeadlineExceeded, match=r"deadline of 0.7 s"):
        run.wait_for_completion(deadline=0.7)
    by_block = pickle.loads(pickle.dumps(short.trigger(SLEEP)))
    with pytest.raises(DeadlineExceeded, match=r"deadline of 0.5 s"):
        by_block.wait_for_completion()
    for one in (run, by_block):
        found = ReplicatePredictionRun.from_id(one.id, credentials=credentials)
        with pytest.raises(JobCanceled):
            found.fetch_result()


def test_a_run_says_what_it_is_and_no_secret(
    model: ReplicateModel, credentials: ReplicateCredentials
) -> None:
    run = model.trigger()
    assert run.id in repr(run)
    assert "local/tiny" in repr(run)
    assert credentials.api_token.get_secret_value() not in repr(run)


def test_what_is_no_id_is_refused_before_anything_is_sent() -> None:
    for kind in (ReplicatePredictionRun, ReplicateTrainingRun):
        with pytest.raises(BadInputError, match="is not an id"):
            kind.from_id("../account")


def test_a_run_that_is_not_there_and_a_wrong_token_have_errors_of_their_own(
    model: ReplicateModel, deployment: ReplicateDeployment, credentials: ReplicateCredentials
) -> None:
    nobody = ReplicatePredictionRun.from_id("a" * 26, credentials=credentials)
    for ask in (nobody.wait_for_completion, nobody.fetch_result, nobody.cancel):
        with pytest.raises(NotFoundError):
            ask()
    wrong = ReplicateCredentials(api_token="r8_wrong", base_url=credentials.base_url)
    stranger = model.model_copy(update={"credentials": wrong})
    for start in (stranger.run, stranger.trigger):
        with pytest.raises(AuthenticationError, match="401"):
            start()
    foreign = deployment.model_copy(update={"credentials": wrong})
    for change in (foreign.scale, foreign.delete, foreign.run):
        with pytest.raises(AuthenticationError, match="401"):
            change()
    with pytest.raises(AuthenticationError, match="401"):
        ReplicatePredictionRun.from_id("a" * 26, credentials=wrong).cancel()


def test_a_run_with_a_webhook_is_told_of_its_end(
    model: ReplicateModel, webhook: ReplicateWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than this test may take: whoever is not told by then has not been told.
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_POLL", "600")
    block = model.model_copy(update={"webhook": webhook})
    slow = {"do": "sleep", "number": 1}

    @flow
    def told() -> list[Prediction]:
        run = pickle.loads(pickle.dumps(block.trigger(slow)))
        assert run.job.webhook.startswith(webhook.public_url)
        assert run.job.webhook not in repr(run)
        run.wait_for_completion()
        return [run.fetch_result(), block.run(slow)]

    assert [one.output for one in told()] == ["hello", "hello"]


def test_a_run_with_a_webhook_is_not_polled_unless_the_wait_says_so(
    model: ReplicateModel, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_POLL", "600")
    lost = ReplicateWebhook(public_url=f"http://127.0.0.1:{unused_tcp_port}")
    block = model.model_copy(update={"webhook": lost})
    slow = {"do": "sleep", "number": 1}

    @flow
    def told() -> tuple[Prediction, float]:
        polled, missed = block.trigger(slow), block.trigger(slow)
        polled.wait_for_completion(wait="poll")
        began = time.monotonic()
        # Nobody tells it; only its deadline makes it look, and find that the job had ended.
        missed.wait_for_completion(deadline=3)
        return polled.fetch_result(), time.monotonic() - began

    prediction, waited = told()
    assert prediction.output == "hello"
    assert waited >= 3


def test_a_training_makes_a_version_at_once_or_step_by_step(
    training: ReplicateTraining, credentials: ReplicateCredentials
) -> None:
    made = training.run()
    assert (made.trained_version or "").startswith("local/tuned:")
    run = pickle.loads(pickle.dumps(training.trigger()))
    assert isinstance(run, ReplicateTrainingRun)
    again = ReplicateTrainingRun.from_id(run.id, credentials=credentials)
    for one in (run, again):
        one.wait_for_completion()
        assert isinstance(one.fetch_result(), Training)
    # Equal data makes an equal version.
    assert again.fetch_result().trained_version == made.trained_version
    assert again.cancel().status == "succeeded"


async def test_a_training_fails_is_canceled_and_has_async_doors(
    training: ReplicateTraining,
) -> None:
    with pytest.raises(ModelError, match="told to fail"):
        await training.arun({"fail": True})
    run = await training.atrigger({"fail": True})
    with pytest.raises(ModelError, match="told to fail"):
        await run.await_for_completion()
    with pytest.raises(ModelError, match="told to fail"):
        await run.afetch_result()
    canceled = await training.atrigger()
    ended = await canceled.acancel()
    assert ended.status in {"canceled", "succeeded"}
    with pytest.raises(BadInputError, match="training_data"):
        await training.model_copy(update={"input": {}}).arun()


def test_a_deployment_is_released_run_scaled_and_released_again(
    deployment: ReplicateDeployment, tiny_model: str
) -> None:
    first = deployment.release(tiny_model)
    assert first.reference == f"local/{deployment.name}"
    assert first.current_release.configuration.model_dump() == {
        "hardware": "cpu",
        "min_instances": 0,
        "max_instances": 2,
    }
    assert deployment.release(tiny_model).current_release.number == 1
    assert deployment.run({"text": "deployed"}).output == "deployed"
    run = deployment.trigger()
    run.wait_for_completion()
    assert run.fetch_result().deployment == deployment.name

    wider = deployment.scale(max_instances=5).current_release
    assert (wider.number, wider.configuration.max_instances) == (2, 5)
    assert deployment.scale(max_instances=5).current_release.number == 2
    back = deployment.scale().current_release
    assert (back.number, back.configuration.max_instances) == (3, 2)
    moved = deployment.release(tiny_model, "gpu-t4").current_release
    assert (moved.number, moved.configuration.hardware) == (4, "gpu-t4")


async def test_a_deployment_has_async_doors_to_everything(
    deployment: ReplicateDeployment, tiny_model: str
) -> None:
    by_full_name = deployment.model_copy(update={"name": f"local/{deployment.name}"})
    await by_full_name.arelease(tiny_model)
    assert (await by_full_name.arun({"text": "deployed"})).output == "deployed"
    run = await deployment.atrigger()
    await run.await_for_completion()
    assert (await by_full_name.ascale(max_instances=3)).current_release.number == 2


def test_a_deployment_that_is_not_there_says_so(
    deployment: ReplicateDeployment, tiny_model: str
) -> None:
    for ask in (deployment.run, deployment.trigger, deployment.scale, deployment.delete):
        with pytest.raises(NotFoundError, match=deployment.name):
            ask()
    bare = deployment.model_copy(update={"hardware": None})
    with pytest.raises(BadInputError, match=r"hardware.*list_hardware.*Nothing was changed"):
        bare.release(tiny_model)
    with pytest.raises(BadReferenceError, match="one version of a model"):
        deployment.release("local/tiny")
    assert bare.release(tiny_model, "cpu").current_release.number == 1
    assert bare.release(tiny_model).current_release.number == 1


async def test_deleting_a_deployment_leaves_the_block_and_deleting_a_block_the_deployment(
    replicate: LocalReplicate, deployment: ReplicateDeployment, tiny_model: str
) -> None:
    assert inspect.iscoroutinefunction(deployment.adelete)
    await deployment.arelease(tiny_model)
    await deployment.asave("kept", overwrite=True)
    await deployment.adelete()
    with pytest.raises(NotFoundError):
        await deployment.ascale()
    await deployment.arelease(tiny_model)

    await ReplicateDeployment.adelete("kept")
    with pytest.raises(ValueError, match="kept"):
        await ReplicateDeployment.aload("kept")
    assert (await deployment.ascale()).current_release.number == 1
    deployment.delete()  # Sync, although a loop is running.
    url = f"{replicate.base_url}/v1/deployments/local/{deployment.name}"
    answer = httpx.get(url, headers={"Authorization": f"Bearer {replicate.token}"})
    assert answer.status_code == 404


def test_a_saved_deployment_block_is_deleted_by_its_class_as_every_block_is(
    deployment: ReplicateDeployment,
) -> None:
    class Mine(ReplicateDeployment):
        _block_type_name = "My Deployment"
        _block_type_slug = "my-deployment"

    for kind in (ReplicateDeployment, Mine):
        kind(name="mine").save("gone-soon", overwrite=True)
        kind.delete("gone-soon")
        with pytest.raises(ValueError, match="gone-soon"):
            kind.load("gone-soon")
    # By a block's own method a saved block is not deleted by mistake, nor the deployment.
    with pytest.raises(TypeError):
        deployment.delete("gone-soon")  # type: ignore[call-arg]
