"""Write down how a job of the ledger ended, so that nobody has to ask, or pay, for it again."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from prefect_replicate.api.resources import Job
from prefect_replicate.jobs import ledger
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.ledger import End
from prefect_replicate.jobs.rows import RowStore

# Bytes of JSON of an output that is kept with the end.
MOST_OUTPUT = 64 * 1024
_WITHIN = 10.0  # seconds
_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """A call's place in the ledger.

    Attributes:
        rows: Those of its flow run.
        key: The call.
        fingerprint: What it asks.
        attempt: The run of the flow that makes it.
        run: Id of the flow run that makes it, which may be a subflow of the one with the rows.
        root: Id of the flow run with the rows; empty if they are in a store of the caller's.
        place: Which of those that ask the same it is, or the name that the caller gave it.
        runs: How often the flow has been run, with this one; 0 where that is not counted.
    """

    rows: RowStore
    key: str
    fingerprint: str
    attempt: str
    run: str = ""
    root: str = ""
    place: int | str = 0
    runs: int = 0


_tickets: OrderedDict[str, tuple[Ticket, int]] = OrderedDict()
_process = secrets.token_hex(8)


def this_process() -> str:
    """A name of this process that no other has."""
    return _process


def _rename() -> None:
    global _process  # noqa: PLW0603 - a forked child is another process
    _process = secrets.token_hex(8)


os.register_at_fork(after_in_child=_rename)


def remember(job: Job, ticket: Ticket, generation: int) -> None:
    """Note to which call a job belongs."""
    _tickets[job.id] = (ticket, generation)
    while len(_tickets) > _MOST_KNOWN:
        _tickets.popitem(last=False)


async def settle(job: Job, *, retryable: bool) -> None:
    """Write down how a job ended, if it is on the ledger. A server that is away is no trouble.

    The next attempt then asks Replicate instead.
    """
    if not job.done or job.id not in _tickets:
        return
    ticket, generation = _tickets.pop(job.id)
    small = not job.data_removed and len(json.dumps(job.output, default=str)) <= MOST_OUTPUT
    end = End(
        status=job.status,
        retryable=retryable,
        attempt=ticket.attempt,
        runs=ticket.runs,
        process=_process,
        output=job.output if small else None,
        kept=small,
    )
    row = ledger.name(ticket.key, generation, "end")
    writing = asyncio.ensure_future(_write(ticket, row, end, job))
    # Nobody waits for longer, and it is written all the same if the server answers by and by.
    await asyncio.wait([writing], timeout=_WITHIN)
    if not writing.done():
        run_logger().warning("The end of %s is not written down yet", job.id)


async def _write(ticket: Ticket, row: str, end: End, job: Job) -> None:
    try:
        await ticket.rows.write(row, end.model_dump_json())
    except Exception as error:  # noqa: BLE001 - whatever Prefect's client raises, the job has ended
        run_logger().warning("The end of %s was not written down: %s", job.id, error)
