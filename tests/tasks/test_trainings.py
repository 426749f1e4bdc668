"""Training models from flows."""

from pathlib import Path

import pytest

from prefect_replicate import (
    BadInputError,
    BadReferenceError,
    JobCanceled,
    LocalReplicate,
    ModelError,
    NotFoundError,
    ReplicateCredentials,
    acreate_training,
    atrain_model,
    cancel_training,
    create_training,
    ensure_model,
    get_training,
    run_model,
    train_model,
    upload_file,
    wait_for_training,
)
from tests.tasks.conftest import jobs


@pytest.fixture(scope="module")
def destination(prefect_server: None, credentials: ReplicateCredentials) -> str:
    model = ensure_model("local/trained", credentials=credentials)
    return f"{model.owner}/{model.name}"


@pytest.fixture(scope="module")
def data(
    prefect_server: None,
    credentials: ReplicateCredentials,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    path = tmp_path_factory.mktemp("data") / "data.txt"
    path.write_text("some training data")
    return {"training_data": upload_file(path, credentials=credentials).urls.get}


def test_a_training_adds_a_version_that_runs(
    credentials: ReplicateCredentials, tiny_model: str, destination: str, data: dict[str, str]
) -> None:
    training = train_model(tiny_model, destination, data, credentials=credentials)
    assert training.status == "succeeded"
    assert "training on 18 bytes" in training.logs
    assert training.trained_version is not None
    assert training.trained_version.startswith(f"{destination}:")
    assert run_model(training.trained_version, {}, credentials=credentials).output == "hello"


async def test_a_failed_training_has_its_words(
    credentials: ReplicateCredentials, tiny_model: str, destination: str, data: dict[str, str]
) -> None:
    with pytest.raises(ModelError, match="told to fail") as caught:
        await atrain_model(tiny_model, destination, {**data, "fail": True}, credentials=credentials)
    assert caught.value.job is not None
    assert caught.value.job.status == "failed"


def test_the_steps_by_themselves(
    credentials: ReplicateCredentials, tiny_model: str, destination: str, data: dict[str, str]
) -> None:
    started = create_training(tiny_model, destination, data, credentials=credentials)
    done = wait_for_training(started, credentials=credentials)
    assert get_training(done.id, credentials=credentials).status == "succeeded"
    assert cancel_training(done, credentials=credentials).status == "succeeded"


async def test_a_canceled_training_is_told_from_a_failed_one(
    credentials: ReplicateCredentials, tiny_model: str, destination: str, data: dict[str, str]
) -> None:
    started = await acreate_training(tiny_model, destination, data, credentials=credentials)
    cancel_training(started, credentials=credentials)
    with pytest.raises(JobCanceled, match=f"Training {started.id}"):
        wait_for_training(started, credentials=credentials)


def test_a_training_needs_a_version_a_destination_and_data(
    credentials: ReplicateCredentials,
    tiny_model: str,
    destination: str,
    data: dict[str, str],
    replicate: LocalReplicate,
) -> None:
    before = len(jobs(replicate, "trainings"))
    with pytest.raises(BadReferenceError, match="one version of a model"):
        train_model("local/tiny", destination, data, credentials=credentials)
    with pytest.raises(BadReferenceError, match="destination model"):
        train_model(tiny_model, "nowhere", data, credentials=credentials)
    with pytest.raises(NotFoundError, match="training destination does not exist"):
        train_model(tiny_model, "local/nowhere", data, credentials=credentials)
    with pytest.raises(BadInputError, match="training_data"):
        train_model(tiny_model, destination, {}, credentials=credentials)
    assert len(jobs(replicate, "trainings")) == before


def test_a_destination_is_made_once(credentials: ReplicateCredentials) -> None:
    made = ensure_model("local/made-once", credentials=credentials)
    assert ensure_model("local/made-once", credentials=credentials) == made


def test_a_file_that_is_not_there_is_named_before_anything_is_sent(
    credentials: ReplicateCredentials, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=r"missing\.txt"):
        upload_file(tmp_path / "missing.txt", credentials=credentials)
