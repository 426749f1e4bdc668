"""The tasks that read, list and tidy up: in a flow of either kind, submitted, and with an error."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import Task, flow

import prefect_replicate
from prefect_replicate import (
    AuthenticationError,
    BadInputError,
    NotFoundError,
    Prediction,
    ReplicateCredentials,
    create_prediction,
    delete_deployment,
    delete_file,
    ensure_model,
    get_deployment,
    get_file,
    list_deployments,
    list_files,
    list_predictions,
    release_deployment,
    run_model,
    train_model,
    update_deployment,
    upload_file,
)


@pytest.fixture(scope="module")
def world(
    prefect_server: None,
    credentials: ReplicateCredentials,
    tiny_model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """One of each thing that can be read."""
    path = tmp_path_factory.mktemp("world") / "data.txt"
    path.write_text("data")
    file = upload_file(path, credentials=credentials)
    ensure_model("local/read", credentials=credentials)
    deployment = release_deployment("read", tiny_model, "cpu", credentials=credentials)
    prediction = run_model(tiny_model, {}, credentials=credentials)
    data = {"training_data": file.urls.get}
    training = train_model(tiny_model, "local/read", data, credentials=credentials)
    return {
        "file": file.id,
        "name": deployment.reference,
        "model": "local/read",
        "version": training.trained_version,
        "prediction": prediction.id,
        "training": training.id,
    }


# What each task is called with, and what it must give back.
READS: dict[str, tuple[list[str], Callable[[Any, dict[str, Any]], bool]]] = {
    "get_account": ([], lambda account, _: account.username == "local"),
    "get_deployment": (["name"], lambda got, world: got.reference == world["name"]),
    "get_file": (["file"], lambda got, world: got.id == world["file"]),
    "get_model": (["model"], lambda got, world: f"{got.owner}/{got.name}" == world["model"]),
    "get_prediction": (["prediction"], lambda got, world: got.id == world["prediction"]),
    "get_training": (["training"], lambda got, world: got.id == world["training"]),
    "get_version": (["version"], lambda got, world: world["version"].endswith(got.id)),
    "list_deployments": (
        [],
        lambda got, world: world["name"] in [one.reference for one in got],
    ),
    "list_files": ([], lambda got, world: world["file"] in [one.id for one in got]),
    "list_hardware": ([], lambda got, _: "cpu" in [one.sku for one in got]),
    "list_models": ([], lambda got, _: "read" in [one.name for one in got]),
    "list_predictions": ([], lambda got, world: world["prediction"] in [one.id for one in got]),
    "list_trainings": ([], lambda got, world: world["training"] in [one.id for one in got]),
    "list_versions": (
        ["model"],
        lambda got, world: world["version"].endswith(got[0].id),
    ),
}


@pytest.mark.parametrize("name", READS)
def test_it_reads_in_a_sync_flow_and_submitted(
    world: dict[str, Any], credentials: ReplicateCredentials, name: str
) -> None:
    task: Task[..., Any] = getattr(prefect_replicate, name)
    wanted, right = READS[name]
    arguments = {key: world[key] for key in wanted}

    @flow
    def reading() -> tuple[Any, Any]:
        submitted = task.submit(**arguments, credentials=credentials)
        return task(**arguments, credentials=credentials), submitted.result()

    direct, submitted = reading()
    assert right(direct, world)
    assert right(submitted, world)


@pytest.mark.parametrize("name", READS)
async def test_it_reads_in_an_async_flow(
    world: dict[str, Any], credentials: ReplicateCredentials, name: str
) -> None:
    twin: Callable[..., Awaitable[Any]] = getattr(prefect_replicate, f"a{name}")
    wanted, right = READS[name]

    @flow
    async def reading() -> Any:
        return await twin(**{key: world[key] for key in wanted}, credentials=credentials)

    assert right(await reading(), world)


@pytest.mark.parametrize("name", READS)
def test_a_wrong_token_reads_nothing(
    world: dict[str, Any], wrong: ReplicateCredentials, name: str
) -> None:
    task: Callable[..., object] = getattr(prefect_replicate, name)
    with pytest.raises(AuthenticationError, match="401"):
        task(**{key: world[key] for key in READS[name][0]}, credentials=wrong)


@pytest.mark.parametrize(
    "name", [name for name in READS if name.startswith("get_") and READS[name][0]]
)
def test_what_is_not_there_is_named(credentials: ReplicateCredentials, name: str) -> None:
    task: Callable[..., object] = getattr(prefect_replicate, name)
    key = READS[name][0][0]
    absent = {"version": "local/nobody:" + "0" * 64}.get(key, "nobody")
    absent = "local/nobody" if key in {"model", "name"} else absent
    with pytest.raises(NotFoundError, match="nobody"):
        task(**{key: absent}, credentials=credentials)


def test_lists_end_where_they_are_told_to(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    started: list[Prediction] = [
        create_prediction(tiny_model, {}, credentials=credentials) for _ in range(3)
    ]
    newest = list_predictions(most=2, credentials=credentials)
    assert [one.id for one in newest] == [started[2].id, started[1].id]
    later = datetime.now(UTC) + timedelta(hours=1)
    assert list_predictions(created_after=later, credentials=credentials) == []
    assert list_predictions(created_before=later, most=1, credentials=credentials) == newest[:1]
    with pytest.raises(BadInputError, match="at least"):
        list_predictions(most=0, credentials=credentials)


def test_a_deployment_is_changed_and_deleted(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    release_deployment("passing", tiny_model, "cpu", credentials=credentials)
    wider = update_deployment("passing", max_instances=4, credentials=credentials)
    again = update_deployment("passing", max_instances=4, credentials=credentials)
    assert (wider.current_release.number, again.current_release.number) == (2, 2)
    assert f"{again.current_release.model}:{again.current_release.version}" == tiny_model
    delete_deployment("passing", credentials=credentials)
    with pytest.raises(NotFoundError, match="local/passing"):
        get_deployment("passing", credentials=credentials)
    with pytest.raises(NotFoundError, match="local/passing"):
        delete_deployment("passing", credentials=credentials)
    names = [one.name for one in list_deployments(credentials=credentials)]
    assert "passing" not in names


async def test_a_file_is_deleted(world: dict[str, Any], credentials: ReplicateCredentials) -> None:
    file = await asyncio.to_thread(upload_file, __file__, credentials=credentials)
    delete_file(file, credentials=credentials)
    with pytest.raises(NotFoundError, match=file.id):
        get_file(file, credentials=credentials)
    assert file.id not in [one.id for one in list_files(credentials=credentials)]
    with pytest.raises(BadInputError, match="is not an id"):
        delete_file("../account", credentials=credentials)
