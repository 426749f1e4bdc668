"""Create a job: send the one request that costs money, and lose nothing of its answer."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from prefect_replicate.api.calls import Call
from prefect_replicate.api.client import Client
from prefect_replicate.api.resources import Job
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.watch import abandon

J = TypeVar("J", bound=Job)


async def create(client: Client, call: Call[J]) -> J:
    """Create a job, once.

    When the caller is interrupted while the request is under way, its answer is still awaited, and
    the job that it names is canceled: otherwise it would run on unknown to anybody.

    Raises:
        CreateUnknownError: The answer was lost; nothing is sent again.
        ReplicateError: As `Client.send`.
    """
    sending = asyncio.ensure_future(client.send(call))
    try:
        return await asyncio.shield(sending)
    except asyncio.CancelledError:
        await abandon(client, await sending)
        raise


def announce(job: J) -> J:
    """Say in the run's log where a job can be watched, and give it back."""
    where = job.urls.web or job.id
    run_logger().info("Started %s of '%s': %s", type(job).__name__.lower(), job.reference, where)
    return job
