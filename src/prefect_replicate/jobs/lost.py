"""Look for the job of a claim whose answer was lost, and say so where it cannot be told."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from prefect_replicate.api import calls
from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import JobFateUnknown, ReplicateError
from prefect_replicate.api.resources import Job
from prefect_replicate.jobs import orphans
from prefect_replicate.jobs.clocks import boottime
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.ledger import Claim
from prefect_replicate.jobs.rows import RowStore

# Two clocks of one server may be this far apart, as it tells the time in whole seconds.
_SECOND = 2.0
# Seconds by which the list is read further back than the claim is old.
_FURTHER = 120.0


class Age:
    """How old a claim is: by the clock of its row, or for as long as this process has known it."""

    def __init__(self, rows: RowStore, written: datetime | None) -> None:
        self._rows, self._written, self._began = rows, written, boottime()

    async def seconds(self) -> float:
        """At least so many."""
        seen = boottime() - self._began
        now = await self._rows.now()
        if now is None or self._written is None:
            return seen
        return max(seen, (now - self._written).total_seconds() - _SECOND)


async def look(
    client: Client, claim: Claim, age: float, others: Collection[str]
) -> orphans.Found | None:
    """What the list says of a claim, None if it could not be read to its end.

    Args:
        client: Who pays.
        claim: Whose job is looked for.
        age: Seconds since it was made.
        others: Ids of jobs that are known to be of something else.
    """
    since = client.now() - timedelta(seconds=age + _FURTHER)
    listed: list[Job] = []
    try:
        if claim.trains:
            async for training in client.pages(calls.trainings_list()):
                if training.created_at and training.created_at < since:
                    break
                listed.append(training)
        else:
            call = calls.predictions_list(created_after=since.isoformat())
            listed += [job async for job in client.pages(call)]
    except ReplicateError as error:
        run_logger().warning("The list of jobs could not be read: %s", error)
        return None
    return orphans.sort(claim, listed, since, others)


def unknown(claim: Claim, age: float, found: orphans.Found | None) -> JobFateUnknown:
    """The error for a claim of which it cannot be told whether it made a job.

    Args:
        claim: It.
        age: Seconds since it was made.
        found: What the last look brought, None if the list could not be read.
    """
    what = "training" if claim.trains else "prediction"
    candidates = found.possible if found else ()
    told = ", ".join(job.urls.web or job.id for job in candidates[:5])
    why = f"these may be it: {told}" if candidates else "the list could not be read"
    bound = f"It ends {claim.life} s after its creation. " if claim.life else ""
    return JobFateUnknown(
        f"A create of a {what} was sent {age:.0f} s ago and its answer was lost. Whether there "
        f"is a job cannot be told: {why}. {bound}Nothing was submitted again; at most one job "
        f"was made. Run it again to look again, or cancel the job at Replicate.",
        candidates,
    )
