"""Create a job: send the one request that costs money, and lose nothing of its answer."""

from __future__ import annotations

from typing import TypeVar

from prefect_replicate.api.calls import Call
from prefect_replicate.api.client import Client, InterruptedCreate, see_through
from prefect_replicate.api.resources import Job
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.watch import abandon

J = TypeVar("J", bound=Job)


async def create(client: Client, call: Call[J]) -> J:
    """Create a job, once.

    When the caller is interrupted while the request is on its way, the job that it made is
    canceled: otherwise it would run on unknown to anybody.

    Raises:
        CreateUnknownError: The answer was lost; nothing is sent again.
        ReplicateError: As `Client.send`.
    """
    try:
        return await client.send(call)
    except InterruptedCreate as interruption:
        if isinstance(interruption.result, Job):
            await see_through(abandon(client, interruption.result))
        else:
            run_logger().error("Interrupted: %s", interruption.result)
        raise


def announce(job: J) -> J:
    """Say in the run's log where a job can be watched, and give it back."""
    where = job.urls.web or job.id
    run_logger().info("Started %s of '%s': %s", type(job).__name__.lower(), job.reference, where)
    return job
