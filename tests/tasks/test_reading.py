"""The tasks that read, list and tidy up: where lists end, and what is gone."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from prefect_replicate import (
    BadInputError,
    NotFoundError,
    Prediction,
    ReplicateCredentials,
    create_prediction,
    delete_deployment,
    delete_file,
    get_deployment,
    get_file,
    list_deployments,
    list_files,
    list_predictions,
    release_deployment,
    update_deployment,
    upload_file,
)


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


async def test_a_file_is_deleted(credentials: ReplicateCredentials) -> None:
    file = await asyncio.to_thread(upload_file, __file__, credentials=credentials)
    delete_file(file, credentials=credentials)
    with pytest.raises(NotFoundError, match=file.id):
        get_file(file, credentials=credentials)
    assert file.id not in [one.id for one in list_files(credentials=credentials)]
    with pytest.raises(BadInputError, match="is not an id"):
        delete_file("../account", credentials=credentials)
