"""Deployments: a version behind a stable name."""

from __future__ import annotations

from prefect_replicate.api import calls
from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import BadReferenceError, NotFoundError
from prefect_replicate.api.references import Name, parse_name, parse_reference
from prefect_replicate.api.resources import Deployment
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.tasks.predictions import short
from prefect_replicate.tasks.twins import twins


async def _release_deployment(
    name: str,
    version: str,
    hardware: str,
    *,
    min_instances: int = 0,
    max_instances: int = 1,
    credentials: ReplicateCredentials | None = None,
) -> Deployment:
    """Put a version behind a deployment: create the deployment, or give it a new release.

    Called twice with the same arguments, the second time changes nothing.

    Args:
        name: "owner/name", or "name" for one of the token's own account.
        version: "owner/name:version".
        hardware: SKU; the account's list is at https://replicate.com/docs/reference/http#hardware.list.
        min_instances: Instances that are always on, and always charged: 0 to 5.
        max_instances: Instances at most: 0 to 20.
        credentials: Who pays; the default credentials if None.

    Returns:
        The deployment, with the release that is current now.

    Raises:
        BadReferenceError: A name is malformed.
        BadInputError: Replicate refuses the hardware, the version or the instances.
    """
    reference = parse_reference(version)
    if not (reference.model and reference.version):
        raise BadReferenceError(
            f"A deployment runs one version of a model, 'owner/name:version', and {version!r} is "
            f"not that. Nothing was sent."
        )
    client = await client_for(credentials)
    deployment = await _full_name(client, name)
    wanted: dict[str, str | int] = {
        "version": reference.version,
        "hardware": hardware,
        "min_instances": min_instances,
        "max_instances": max_instances,
    }
    try:
        current = await client.send(calls.deployments_get(deployment))
    except NotFoundError:
        return await client.send(
            calls.deployments_create(
                deployment.name,
                model=reference.model,
                version=reference.version,
                hardware=hardware,
                min_instances=min_instances,
                max_instances=max_instances,
            )
        )
    if wanted == _running(current):
        run_logger().info("Deployment %s runs %s already", deployment, short(version))
        return current
    return await client.send(calls.deployments_update(deployment, **wanted))


async def _full_name(client: Client, name: str) -> Name:
    if "/" in name:
        return parse_name(name, "deployment")
    account = await client.send(calls.account_get())
    return parse_name(f"{account.username}/{name}", "deployment")


def _running(deployment: Deployment) -> dict[str, str | int]:
    release = deployment.current_release
    return {
        "version": release.version,
        "hardware": release.configuration.hardware,
        "min_instances": release.configuration.min_instances,
        "max_instances": release.configuration.max_instances,
    }


release_deployment, arelease_deployment = twins(
    _release_deployment, lambda p: f"release {short(p['version'])} as {p['name']}"
)
