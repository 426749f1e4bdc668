"""Deployments: a version behind a stable name."""

from __future__ import annotations

from prefect_replicate.api import calls
from prefect_replicate.api.resources import Deployment, Hardware
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.jobs.releases import full_name, release, update
from prefect_replicate.tasks.predictions import short
from prefect_replicate.tasks.twins import twins


async def _release_deployment(
    name: str,
    version: str,
    hardware: str,
    *,
    min_instances: int | None = None,
    max_instances: int | None = None,
    credentials: ReplicateCredentials | None = None,
) -> Deployment:
    """Put a version behind a deployment: create the deployment, or give it a new release.

    Called twice with the same arguments, the second time changes nothing.

    Args:
        name: "owner/name", or "name" for one of the token's own account.
        version: "owner/name:version".
        hardware: SKU, one of those that `list_hardware` lists.
        min_instances: Instances that are always on, and always charged: 0 to 5. If None, a new
            deployment has 0 and another keeps what it has.
        max_instances: Instances at most: 0 to 20. If None, a new deployment has 1 and another keeps
            what it has.
        credentials: Who pays; the default credentials if None.

    Returns:
        The deployment, with the release that is current now.

    Raises:
        BadReferenceError: A name is malformed.
        BadInputError: Replicate refuses the hardware, the version or the instances; or there is no
            such deployment, and the token's account cannot create it for another owner.
    """
    client = await client_for(credentials)
    return await release(
        client,
        name,
        version,
        hardware,
        min_instances=min_instances,
        max_instances=max_instances,
    )


async def _get_deployment(
    name: str, *, credentials: ReplicateCredentials | None = None
) -> Deployment:
    """Read a deployment, "owner/name" or "name" in the token's own account.

    Raises:
        NotFoundError: There is none of that name.
    """
    client = await client_for(credentials)
    return await client.send(calls.deployments_get(await full_name(client, name)))


async def _list_deployments(
    *, most: int = 100, credentials: ReplicateCredentials | None = None
) -> list[Deployment]:
    """List the account's deployments, newest first, at most so many."""
    client = await client_for(credentials)
    return await client.first(calls.deployments_list(), most)


async def _update_deployment(
    name: str,
    *,
    hardware: str | None = None,
    min_instances: int | None = None,
    max_instances: int | None = None,
    credentials: ReplicateCredentials | None = None,
) -> Deployment:
    """Change what a deployment runs on, and leave its version as it is.

    What is None stays as it is, and nothing is sent if all of it is so already. For another
    version there is `release_deployment`.

    Raises:
        NotFoundError: There is none of that name.
        BadInputError: Replicate refuses the hardware or the instances.
    """
    client = await client_for(credentials)
    wanted = {
        "hardware": hardware,
        "min_instances": min_instances,
        "max_instances": max_instances,
    }
    return await update(client, await full_name(client, name), wanted)


async def _delete_deployment(name: str, *, credentials: ReplicateCredentials | None = None) -> None:
    """Delete a deployment that has been offline and unused for 15 minutes.

    Raises:
        NotFoundError: There is none of that name.
        BadInputError: Replicate does not delete it yet.
    """
    client = await client_for(credentials)
    await client.send(calls.deployments_delete(await full_name(client, name)))


async def _list_hardware(*, credentials: ReplicateCredentials | None = None) -> list[Hardware]:
    """What models can run on: `sku` is what tasks take as `hardware`."""
    client = await client_for(credentials)
    return await client.send(calls.hardware_list())


list_hardware, alist_hardware = twins(_list_hardware, lambda _: "list hardware")
release_deployment, arelease_deployment = twins(
    _release_deployment, lambda p: f"release {short(p['version'])} as {p['name']}"
)
get_deployment, aget_deployment = twins(_get_deployment, lambda p: f"get deployment {p['name']}")
list_deployments, alist_deployments = twins(_list_deployments, lambda _: "list deployments")
update_deployment, aupdate_deployment = twins(
    _update_deployment, lambda p: f"update deployment {p['name']}"
)
delete_deployment, adelete_deployment = twins(
    _delete_deployment, lambda p: f"delete deployment {p['name']}"
)
