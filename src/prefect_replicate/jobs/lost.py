"""Look for the job of a claim whose answer was lost, and say so where it cannot be told."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

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
_MOST_TOLD = 5


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
    client: Client, claim: Claim, age: float, others: Collection[str], *, proof: bool = False
) -> orphans.Found | None:
    """What the list says of a claim, None if it could not be read to its end.

    Args:
        client: Who pays.
        claim: Whose job is looked for.
        age: Seconds since it was made.
        others: Ids of jobs that are known to be of something else.
        proof: Only a webhook says that a job is the claim's; one that is like it may be.
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
    found = orphans.sort(claim, listed, since, others)
    if proof and found.mine and claim.webhook is None:
        return orphans.Found(None, (found.mine, *found.possible))
    return found


def unknown(
    claim: Claim, age: float, found: orphans.Found | None, *, ways_out: bool
) -> JobFateUnknown:
    """The error for a claim of which it cannot be told whether it made a job.

    Args:
        claim: It.
        age: Seconds since it was made.
        found: What the last look brought, None if the list could not be read.
        ways_out: Whether the caller can say `adopt` and `fresh`.
    """
    what = "training" if claim.trains else "prediction"
    candidates = found.possible if found else ()
    told = ", ".join(job.urls.web or job.id for job in candidates[:_MOST_TOLD])
    more = f" and {len(candidates) - _MOST_TOLD} more" if len(candidates) > _MOST_TOLD else ""
    why = f"these may be it: {told}{more}" if candidates else "the list could not be read"
    cost = (
        f"which ends {claim.life} s after its creation at the latest and costs no more than that"
        if claim.life
        else "which costs what it costs until it ends, as nothing else ends it"
    )
    sent = f"{datetime.now(UTC) - timedelta(seconds=age):%Y-%m-%d %H:%M:%S} UTC"
    out = (
        "Run it again to look again; or give it `adopt` with the id of its job, or `fresh=True` to "
        "have another one made and paid for."
        if ways_out
        else "Run it again to look again, or cancel the job at Replicate."
    )
    return JobFateUnknown(
        f"A create of a {what} was sent at {sent}, {age:.0f} s ago, and its answer was lost. "
        f"Whether there is a job cannot be told: {why}. At most one was made, {cost}. Nothing was "
        f"submitted again. {out}",
        candidates,
    )
