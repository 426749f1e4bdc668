"""Where a person says which job a call has, or which call it is: see to it that it can be so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefect_replicate.api import calls
from prefect_replicate.api.calls import Call
from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import BadInputError, JobKeyError, NotFoundError, ReplicateError
from prefect_replicate.api.resources import Job, Prediction, Training
from prefect_replicate.jobs.ledger import Generation
from prefect_replicate.jobs.settled import Ticket
from prefect_replicate.jobs.watch import reading

ADOPTED = "adopted by hand"


def reading_id(job_id: str, *, trains: bool) -> Call[Any]:
    """The call that reads a training or a prediction of which only the id is known."""
    kind = Training if trains else Prediction
    return reading(kind(id=job_id, status="unknown"))


async def offered(
    client: Client, job_id: str, mismatch: Callable[[Job], str | None], *, trains: bool
) -> Any:
    """A job that is to be adopted, if it can be the call's.

    Args:
        client: Who pays.
        job_id: It.
        mismatch: Says why a job cannot be of what is asked for.
        trains: A training is asked for.

    Raises:
        NotFoundError: There is none of that id and kind.
        BadInputError: It is of something else.
    """
    what = "training" if trains else "prediction"
    try:
        job: Job = await client.send(reading_id(job_id, trains=trains))
    except NotFoundError as error:
        raise NotFoundError(
            f"There is no {what} {job_id!r} to adopt, or these credentials cannot see it. Nothing "
            f"was submitted.",
            status=error.status,
            body=error.body,
        ) from error
    if why := "it is a training" if not trains and await _trains(client, job_id) else mismatch(job):
        raise BadInputError(
            f"The {what} {job_id} cannot be adopted: {why}. It is left as it is. Nothing was "
            f"submitted."
        )
    return job


async def _trains(client: Client, job_id: str) -> bool:
    """Whether a job is a training: those are given out as predictions too."""
    try:
        await client.send(calls.trainings_get(job_id))
    except NotFoundError:
        return False
    return True


def has_another(job_id: str, asked: str) -> BadInputError:
    """The error for a call that has a job, where another one is to be adopted."""
    return BadInputError(
        f"This call has a job already, {job_id}, so {asked} cannot be adopted. Both are left as "
        f"they are. Leave `adopt` out to go on with {job_id}. Nothing was submitted."
    )


def held_by_another(job_id: str) -> BadInputError:
    """The error for a job that is to be adopted and is that of another call."""
    return BadInputError(
        f"Job {job_id} is that of another call, so this one cannot adopt it. Nothing was submitted."
    )


async def not_the_same(
    client: Client, ticket: Ticket, generations: Sequence[Generation], *, trains: bool
) -> JobKeyError:
    """The error for a job_key under which something else was asked before."""
    where = f"in flow run {ticket.root}" if ticket.root else "in this job_store"
    named = next((each for each in reversed(generations) if each.job and each.job.id), None)
    if named is None or named.job is None or named.job.id is None:
        fate = "Whether that made a job is not written down"
    else:
        fate = (
            f"That made job {named.job.id}, which is {await _status(client, named, trains=trains)}"
        )
    return JobKeyError(
        f"job_key {ticket.place!r} names a call that asked something else {where}: another model, "
        f"destination or input. {fate}. Nothing was submitted. Ask what was asked before to have "
        f"its job again, or give this call a job_key of its own."
    )


async def _status(client: Client, written: Generation, *, trains: bool) -> str:
    if written.end:
        return f"'{written.end.status}'"
    try:
        job: Job = await client.send(reading_id(str(written.job and written.job.id), trains=trains))
    except ReplicateError as error:
        return f"of unknown status ({error})"
    return f"'{job.status}'"
