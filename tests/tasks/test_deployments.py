"""Releasing a version behind a stable name."""

from typing import Any

import pytest

from prefect_replicate import (
    BadInputError,
    BadReferenceError,
    ReplicateCredentials,
    arelease_deployment,
    ensure_model,
    list_hardware,
    release_deployment,
)


def test_the_first_release_creates_and_the_next_one_updates(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    first = release_deployment("local/released", tiny_model, "cpu", credentials=credentials)
    again = release_deployment("local/released", tiny_model, "cpu", credentials=credentials)
    wider = release_deployment(
        "local/released", tiny_model, "cpu", max_instances=3, credentials=credentials
    )
    assert [x.current_release.number for x in (first, again, wider)] == [1, 1, 2]
    assert wider.current_release.configuration.max_instances == 3
    assert f"{wider.current_release.model}:{wider.current_release.version}" == tiny_model


async def test_a_bare_name_is_one_of_the_tokens_own_account(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    bare = await arelease_deployment("bare-name", tiny_model, "cpu", credentials=credentials)
    assert bare.reference == "local/bare-name"


def test_a_model_is_not_a_version_and_hardware_must_exist(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    ensure_model("local/empty", credentials=credentials)
    with pytest.raises(BadReferenceError, match="one version of a model"):
        release_deployment("local/x", "local/empty", "cpu", credentials=credentials)
    with pytest.raises(BadInputError, match="hardware must be one of"):
        release_deployment("local/x", tiny_model, "no-such-gpu", credentials=credentials)


def test_a_release_keeps_the_scaling_that_it_does_not_name(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    release_deployment(
        "scaled", tiny_model, "cpu", min_instances=0, max_instances=7, credentials=credentials
    )
    kept = release_deployment("scaled", tiny_model, "gpu-t4", credentials=credentials)
    assert kept.current_release.configuration.model_dump() == {
        "hardware": "gpu-t4",
        "min_instances": 0,
        "max_instances": 7,
    }


def test_a_deployment_of_somebody_else_is_not_made_under_ones_own_name(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    with pytest.raises(BadInputError, match=r"no deployment 'somebody/x'.*of 'local' only"):
        release_deployment("somebody/x", tiny_model, "cpu", credentials=credentials)


def test_arguments_of_any_kind_name_the_task_run(credentials: ReplicateCredentials) -> None:
    version: Any = None  # A user's mistake: the task says so, not its name.
    with pytest.raises(TypeError, match="expected string"):
        release_deployment("x", version, "cpu", credentials=credentials)


def test_hardware_is_listed(credentials: ReplicateCredentials) -> None:
    assert "cpu" in [one.sku for one in list_hardware(credentials=credentials)]
