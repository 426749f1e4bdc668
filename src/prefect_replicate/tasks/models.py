"""Models: the places that versions live in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prefect_replicate.api import calls
from prefect_replicate.api.errors import BadInputError, NotFoundError
from prefect_replicate.api.references import parse_name, parse_version
from prefect_replicate.api.resources import Model, Prediction, Version
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


async def _create_model(
    model: str,
    *,
    hardware: str = "cpu",
    visibility: Literal["private", "public"] = "private",
    description: str | None = None,
    github_url: str | None = None,
    paper_url: str | None = None,
    license_url: str | None = None,
    cover_image_url: str | None = None,
    credentials: ReplicateCredentials | None = None,
) -> Model:
    """Create a model, empty until a training or `cog push` adds a version.

    Where it may exist already, `ensure_model` is the one to call.

    Args:
        model: "owner/name"; the owner is the token's account or one of its organizations.
        hardware: SKU that its predictions run on; the API cannot change it later.
        visibility: Who can see it.
        description: What it does, in a sentence.
        github_url: Where its code is.
        paper_url: Where it is described.
        license_url: What may be done with it.
        cover_image_url: Picture for its page.
        credentials: Whose model it is; the default credentials if None.

    Raises:
        BadInputError: There is a model of that name, or was one until not long ago.
        AuthenticationError: The token may not create models for this owner.
    """
    about = {
        "description": description,
        "github_url": github_url,
        "paper_url": paper_url,
        "license_url": license_url,
        "cover_image_url": cover_image_url,
    }
    call = calls.models_create(
        parse_name(model), visibility=visibility, hardware=hardware, **_given(about)
    )
    return await (await client_for(credentials)).send(call)


async def _update_model(
    model: str,
    *,
    description: str | None = None,
    readme: str | None = None,
    github_url: str | None = None,
    paper_url: str | None = None,
    weights_url: str | None = None,
    license_url: str | None = None,
    credentials: ReplicateCredentials | None = None,
) -> Model:
    """Change what is said of a model; what is None stays as it is, what is "" is taken away.

    Raises:
        BadInputError: Nothing to change was given.
        NotFoundError: There is none of that name.
        AuthenticationError: It is somebody else's.
    """
    name = parse_name(model)
    changes = _given(
        {
            "description": description,
            "readme": readme,
            "github_url": github_url,
            "paper_url": paper_url,
            "weights_url": weights_url,
            "license_url": license_url,
        }
    )
    if not changes:
        raise BadInputError(f"Say what to change of model '{name}'. Nothing was sent.")
    client = await client_for(credentials)
    return await client.send(calls.models_update(name, **changes))


async def _delete_model(model: str, *, credentials: ReplicateCredentials | None = None) -> None:
    """Delete a private model of one's own that has no versions.

    Raises:
        NotFoundError: There is none of that name.
        APIError: Replicate does not delete it: it is public, has versions, or is not yours.
    """
    client = await client_for(credentials)
    await client.send(calls.models_delete(parse_name(model)))


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


async def _search_models(
    query: str, *, most: int = 25, credentials: ReplicateCredentials | None = None
) -> list[Model]:
    """Search public models by words, best first, at most so many."""
    client = await client_for(credentials)
    return await client.first(calls.models_search(query), most)


async def _list_examples(
    model: str, *, most: int = 25, credentials: ReplicateCredentials | None = None
) -> list[Prediction]:
    """List the predictions that a model, "owner/name", is shown with, at most so many.

    Raises:
        NotFoundError: There is no such model.
    """
    client = await client_for(credentials)
    return await client.first(calls.models_examples_list(parse_name(model)), most)


async def _get_readme(model: str, *, credentials: ReplicateCredentials | None = None) -> str:
    """Read a model's readme, in Markdown.

    Raises:
        NotFoundError: There is no such model, or it has no readme.
    """
    client = await client_for(credentials)
    return await client.send(calls.models_readme_get(parse_name(model)))


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


async def _delete_version(version: str, *, credentials: ReplicateCredentials | None = None) -> None:
    """Delete a version, "owner/name:version", with its predictions; Replicate takes some minutes.

    Raises:
        BadReferenceError: It is not that.
        NotFoundError: There is no such version.
        APIError: Replicate does not delete it: it is public, deployed, trained from, or not yours.
    """
    model, version_id = parse_version(version, "What is deleted is one version of a model")
    client = await client_for(credentials)
    await client.send(calls.models_versions_delete(model, version_id))


def _given(fields: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value is not None}


ensure_model, aensure_model = twins(_ensure_model, lambda p: f"ensure model {p['model']}")
get_model, aget_model = twins(_get_model, lambda p: f"get model {p['model']}")
list_models, alist_models = twins(_list_models, lambda _: "list models")
get_version, aget_version = twins(_get_version, lambda p: f"get version {short(p['version'])}")
list_versions, alist_versions = twins(_list_versions, lambda p: f"list versions of {p['model']}")
create_model, acreate_model = twins(_create_model, lambda p: f"create model {p['model']}")
update_model, aupdate_model = twins(_update_model, lambda p: f"update model {p['model']}")
delete_model, adelete_model = twins(_delete_model, lambda p: f"delete model {p['model']}")
search_models, asearch_models = twins(
    _search_models, lambda p: f"search models for {p['query'][:40]}"
)
list_examples, alist_examples = twins(_list_examples, lambda p: f"list examples of {p['model']}")
get_readme, aget_readme = twins(_get_readme, lambda p: f"get readme of {p['model']}")
delete_version, adelete_version = twins(
    _delete_version, lambda p: f"delete version {short(p['version'])}"
)
