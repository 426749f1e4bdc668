"""The tutorial: one idea a test, in the order in which you meet them. All of it really runs."""

import asyncio
from pathlib import Path

import pytest
from prefect import flow

from prefect_replicate import (
    LocalReplicate,
    ModelError,
    Prediction,
    ReplicateCredentials,
    arun_model,
    create_prediction,
    ensure_model,
    evaluate_model,
    release_deployment,
    run_model,
    save_outputs,
    train_model,
    upload_file,
    wait_for_prediction,
)
from tests.conftest import TEXT_MODEL

pytestmark = pytest.mark.usefixtures("prefect_server", "text_model")


def test_credentials_say_which_replicate_and_whose_money(replicate: LocalReplicate) -> None:
    credentials = ReplicateCredentials(api_token=replicate.token, base_url=replicate.base_url)
    assert credentials.verify().username == "local"


def test_a_task_runs_a_model_and_returns_the_prediction(credentials: ReplicateCredentials) -> None:
    @flow
    def say() -> Prediction:
        return run_model("local/text", {"prompt": "In the "}, credentials=credentials)

    prediction = say()
    assert prediction.status == "succeeded"
    assert len(prediction.text) == 200
    assert prediction.metrics["predict_time"] > 0


async def test_the_async_twin_begins_with_a(credentials: ReplicateCredentials) -> None:
    @flow
    async def say() -> list[Prediction]:
        return await asyncio.gather(
            *(
                arun_model("local/text", {"prompt": "And ", "seed": n}, credentials=credentials)
                for n in range(3)
            )
        )

    assert len({prediction.text for prediction in await say()}) == 3


def test_a_prediction_can_be_started_now_and_awaited_later(
    credentials: ReplicateCredentials,
) -> None:
    started = create_prediction("local/text", {"prompt": "And "}, credentials=credentials)
    assert wait_for_prediction(started, credentials=credentials).id == started.id


def test_a_models_failure_is_an_error_with_the_prediction_in_it(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    with pytest.raises(ModelError, match="no ink") as caught:
        run_model(tiny_model, {"do": "fail", "text": "no ink"}, credentials=credentials)
    assert caught.value.prediction is not None
    assert caught.value.prediction.status == "failed"


def test_outputs_are_kept_before_replicate_deletes_them(
    credentials: ReplicateCredentials, tmp_path: Path
) -> None:
    prediction = run_model("local/text", {"prompt": "And "}, credentials=credentials)
    saved = save_outputs(prediction, tmp_path)
    assert Path(saved.files[0].uri).read_text() == prediction.text


def test_train_evaluate_release_run(credentials: ReplicateCredentials, text_model: str) -> None:
    held_out = TEXT_MODEL / "data" / "eval.jsonl"
    scorer = "lowest:bits_per_character"
    ensure_model("local/tutorial", credentials=credentials)
    data = upload_file(TEXT_MODEL / "data" / "train.txt", credentials=credentials)
    training = train_model(
        text_model,
        "local/tutorial",
        {"training_data": data.urls.get, "steps": 50},
        credentials=credentials,
    )
    assert training.trained_version is not None

    before = evaluate_model(text_model, held_out, scorer, credentials=credentials)
    after = evaluate_model(training.trained_version, held_out, scorer, credentials=credentials)
    assert after.beats(before)

    deployment = release_deployment(
        "tutorial", training.trained_version, "cpu", credentials=credentials
    )
    prediction = run_model(
        deployment=deployment.reference, input={"prompt": "The flow "}, credentials=credentials
    )
    assert prediction.model == "local/tutorial"
