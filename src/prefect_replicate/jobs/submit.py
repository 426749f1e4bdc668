"""Create a job: send the one request that costs money, and lose nothing of its answer."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from prefect_replicate.api.calls import Call
from prefect_replicate.api.client import Client, InterruptedCreate, see_through
from prefect_replicate.api.resources import Job
from prefect_replicate.jobs.announce import announce
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.watch import abandon

J = TypeVar("J", bound=Job)


async def create(client: Client, call: Call[J], *, shown: bool = True) -> J:
    """Create a job, once.

    When the caller is interrupted while the request is on its way, the job that it made is
    canceled: otherwise it would run on unknown to anybody.

    Args:
        client: Who pays.
        call: The create.
        shown: Whether Prefect's UI shows the job by itself; of a thousand it should not.

    Raises:
        CreateUnknownError: The answer was lost; nothing is sent again.
        ReplicateError: As `Client.send`.
    """
    try:
        job = await client.send(call)
    except InterruptedCreate as interruption:
        if isinstance(interruption.result, Job):
            await see_through(abandon(client, interruption.result))
        else:
            run_logger().error("Interrupted: %s", interruption.result)
        raise
    if call.hook and job.webhook is None:
        # Not every API gives it back, and a waiter needs to know where its mail goes.
        job = job.model_copy(update={"webhook": call.hook.url})
    if shown:
        try:
            await announce(job)
        except asyncio.CancelledError:
            await see_through(abandon(client, job))
            raise
    return job
