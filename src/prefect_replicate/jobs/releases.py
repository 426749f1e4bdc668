"""Releases: what runs behind a deployment's name, created or changed, and only where it differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect_replicate.api import calls
from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import BadInputError, NotFoundError
from prefect_replicate.api.references import Name, parse_name, parse_version
from prefect_replicate.api.resources import Deployment
from prefect_replicate.jobs.flow_run import run_logger


async def full_name(client: Client, name: str) -> Name:
    """Read "owner/name", or "name" for a deployment of the token's own account.

    Raises:
        BadReferenceError: It is neither.
    """
    if "/" in name:
        return parse_name(name, "deployment")
    account = await client.send(calls.account_get())
    return parse_name(f"{account.username}/{name}", "deployment")


async def release(
    client: Client,
    name: str,
    version: str,
    hardware: str | None,
    *,
    min_instances: int | None = None,
    max_instances: int | None = None,
) -> Deployment:
    """Create a deployment, or give it a new release. What is so already changes nothing.

    Args:
        client: Who pays.
        name: As `full_name` reads it.
        version: "owner/name:version".
        hardware: SKU; if None, a deployment keeps what it has, and a new one cannot be created.
        min_instances: If None, a new deployment has 0 and another keeps what it has.
        max_instances: If None, a new deployment has 1 and another keeps what it has.

    Raises:
        BadReferenceError: A name is malformed.
        BadInputError: Replicate refuses it; or there is no such deployment, and it cannot be
            created for another owner or without hardware.
    """
    model, version_id = parse_version(version, "A deployment runs one version of a model")
    wanted: dict[str, str | int | None] = {
        "version": version_id,
        "hardware": hardware,
        "min_instances": min_instances,
        "max_instances": max_instances,
    }
    deployment = await full_name(client, name)
    try:
        return await update(client, deployment, wanted)
    except NotFoundError:
        pass
    try:
        return await _create(client, deployment, model, wanted)
    except BadInputError as error:
        if error.status != _TAKEN:
            raise
    return await update(client, deployment, wanted)  # Somebody else was faster.


# How the API answers to a create of what exists.
_TAKEN = 409


async def update(
    client: Client, deployment: Name, wanted: Mapping[str, str | int | None]
) -> Deployment:
    """Change what differs from what is wanted; what is None stays as it is.

    Raises:
        NotFoundError: There is none of that name.
        BadInputError: Replicate refuses it.
    """
    current = await client.send(calls.deployments_get(deployment))
    running = _running(current)
    changes = {
        key: value for key, value in wanted.items() if value is not None and value != running[key]
    }
    if not changes:
        run_logger().info("Deployment %s is as it should be already", deployment)
        return current
    return await client.send(calls.deployments_update(deployment, **changes))


async def _create(
    client: Client, deployment: Name, model: Name, wanted: Mapping[str, Any]
) -> Deployment:
    account = await client.send(calls.account_get())
    if account.username != deployment.owner:
        raise BadInputError(
            f"There is no deployment '{deployment}', and this token can create deployments of "
            f"'{account.username}' only. Nothing was changed."
        )
    if wanted["hardware"] is None:
        raise BadInputError(
            f"There is no deployment '{deployment}', and a new one needs `hardware`: one of the "
            f"SKUs that `list_hardware` lists. Nothing was changed."
        )
    settings = {key: value for key, value in wanted.items() if value is not None}
    settings = {"min_instances": 0, "max_instances": 1, **settings}
    return await client.send(calls.deployments_create(deployment.name, model=model, **settings))


def _running(deployment: Deployment) -> dict[str, str | int]:
    release = deployment.current_release
    return {
        "version": release.version,
        "hardware": release.configuration.hardware,
        "min_instances": release.configuration.min_instances,
        "max_instances": release.configuration.max_instances,
    }
