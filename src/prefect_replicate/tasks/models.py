"""Models: the places that versions live in."""

from __future__ import annotations

from typing import Literal

from prefect_replicate.api import calls
from prefect_replicate.api.errors import BadInputError, NotFoundError
from prefect_replicate.api.references import parse_name, parse_version
from prefect_replicate.api.resources import Model, Version
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.tasks.predictions import short
from prefect_replicate.tasks.twins import twins


async def _ensure_model(
    model: str,
    *,
    hardware: str = "cpu",
    visibility: Literal["private", "public"] = "private",
    credentials: ReplicateCredentials | None = None,
) -> Model:
    """Create a model unless it exists, so that a training has a destination.

    Args:
        model: "owner/name"; the owner is the token's account or one of its organizations.
        hardware: SKU that predictions of a new model run on.
        visibility: Who can see a new model.
        credentials: Whose model it is; the default credentials if None.

    Returns:
        The model. One that existed keeps its own hardware and visibility.

    Raises:
        BadReferenceError: The name is malformed.
        AuthenticationError: The token may not create models for this owner.
    """
    name = parse_name(model)
    client = await client_for(credentials)
    try:
        return await client.send(calls.models_get(name))
    except NotFoundError:
        pass
    try:
        call = calls.models_create(name, visibility=visibility, hardware=hardware)
        return await client.send(call)
    except BadInputError as error:
        if error.status != 409:
            raise
    return await client.send(calls.models_get(name))  # Somebody else was faster.


async def _get_model(model: str, *, credentials: ReplicateCredentials | None = None) -> Model:
    """Read a model, "owner/name", and its latest version.

    Raises:
        NotFoundError: There is none of that name, or the token cannot see it.
    """
    client = await client_for(credentials)
    return await client.send(calls.models_get(parse_name(model)))


async def _list_models(
    *, most: int = 25, credentials: ReplicateCredentials | None = None
) -> list[Model]:
    """List public models and the account's own, at most so many; the latest versions first."""
    client = await client_for(credentials)
    return await client.first(calls.models_list(), most)


async def _get_version(version: str, *, credentials: ReplicateCredentials | None = None) -> Version:
    """Read one version, "owner/name:version", with the schema of its input and output.

    Raises:
        BadReferenceError: It is not that.
        NotFoundError: There is no such version.
    """
    model, version_id = parse_version(version, "What is read is one version of a model")
    client = await client_for(credentials)
    return await client.send(calls.models_versions_get(model, version_id))


async def _list_versions(
    model: str, *, most: int = 100, credentials: ReplicateCredentials | None = None
) -> list[Version]:
    """List a model's versions, newest first, at most so many.

    Raises:
        NotFoundError: There is no such model.
    """
    client = await client_for(credentials)
    return await client.first(calls.models_versions_list(parse_name(model)), most)


ensure_model, aensure_model = twins(_ensure_model, lambda p: f"ensure model {p['model']}")
get_model, aget_model = twins(_get_model, lambda p: f"get model {p['model']}")
list_models, alist_models = twins(_list_models, lambda _: "list models")
get_version, aget_version = twins(_get_version, lambda p: f"get version {short(p['version'])}")
list_versions, alist_versions = twins(_list_versions, lambda p: f"list versions of {p['model']}")
