"""Record the one job of a call, and cancel any other."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from prefect_replicate.api.client import Client, see_through
from prefect_replicate.api.errors import LedgerError
from prefect_replicate.api.resources import Job
from prefect_replicate.jobs import ledger
from prefect_replicate.jobs.announce import announce
from prefect_replicate.jobs.clocks import boottime
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.ledger import Held, Named, Void
from prefect_replicate.jobs.packs import stores_of
from prefect_replicate.jobs.rows import RowStore
from prefect_replicate.jobs.settled import Ticket, remember
from prefect_replicate.jobs.watch import abandon

J = TypeVar("J", bound=Job)

_RECORD_EVERY = 1.0


@dataclass(slots=True)
class Recorder:
    """Writes what became of the claims of one call.

    Attributes:
        client: Who pays.
        ticket: The call.
        patience: Seconds for which a job may wait to be recorded.
        shown: Whether Prefect's UI shows the job by itself.
        others: Ids of jobs that are known to be of something else.
    """

    client: Client
    ticket: Ticket
    patience: float
    shown: bool = True
    others: set[str] = field(default_factory=set)

    async def void(self, generation: int, number: int, reason: str) -> None:
        """Say that a claim made no job. Where that cannot be written, somebody has to look."""
        row = ledger.name(self.ticket.key, generation, "v", number)
        try:
            await self.ticket.rows.write(row, Void(reason=reason).model_dump_json())
        except LedgerError as error:
            run_logger().warning("%s It is not written down that no job was made.", error)

    async def recorded(self, generation: int) -> Named | None:
        """The job that counts, if that is written down.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        row = ledger.name(self.ticket.key, generation, "job")
        stored = await self.ticket.rows.get(row)
        return None if stored is None else ledger.parsed(Named, row, stored)

    async def keep(self, generation: int, job: J, named: Named, *, proven: bool) -> J | None:
        """Record a job as the one that counts; None if another counts, and this one is canceled.

        Args:
            generation: Of the call.
            job: It.
            named: What is written.
            proven: The job itself proves whose it is, by its webhook.

        Raises:
            LedgerError: As `record`.
        """
        recording = asyncio.ensure_future(self.record(generation, job, named, proven=proven))
        try:
            counts = await asyncio.shield(recording)
        except asyncio.CancelledError:
            await see_through(self._give_up(generation, job, recording))
            raise
        if counts is None:
            return None
        if not counts:
            run_logger().error("Job %s is a second one of this call, and is canceled", job.id)
            await abandon(self.client, job)
            return None
        remember(job, self.ticket, generation)
        return await show(self.client, job, shown=self.shown)

    async def _give_up(
        self, generation: int, job: Job, recording: asyncio.Future[bool | None]
    ) -> None:
        await asyncio.wait([recording], timeout=_RECORD_EVERY * 5)
        if recording.done():
            if recording.exception() or recording.result() is None:
                return  # It is canceled, or another call has it.
            if not recording.result():
                await abandon(self.client, job)
                return
        recording.cancel()
        remember(job, self.ticket, generation)
        await abandon(self.client, job, interrupted=True)

    async def record(self, generation: int, job: Job, named: Named, *, proven: bool) -> bool | None:
        """Whether a job is the one that counts; None if it counts for another call.

        Raises:
            LedgerError: The ledger was away for as long as the job may wait; it was canceled.
        """
        until = boottime() + self.patience
        while True:
            try:
                return await self.record_once(generation, job, named, proven=proven)
            except LedgerError as error:
                if boottime() > until:
                    left = await abandon(self.client, job)
                    raise LedgerError(f"{error} {left.fate}.") from error
                run_logger().warning("%s Job %s waits to be recorded.", error, job.id)
                await asyncio.sleep(_RECORD_EVERY)

    async def record_once(
        self, generation: int, job: Job, named: Named, *, proven: bool = False
    ) -> bool | None:
        """As `record`, without patience: whatever is wrong, the job is left as it is.

        Raises:
            LedgerError: Whether it is recorded is not known.
        """
        if not (proven or await self._hold(job, named.how)):
            self.others.add(job.id)
            return None
        row = ledger.name(self.ticket.key, generation, "job")
        if await self.ticket.rows.write(row, named.model_dump_json()):
            return True
        stored = await self.recorded(generation)
        return stored is not None and stored.id == job.id

    async def _hold(self, job: Job, how: str) -> bool:
        """Whether a job is this call's, where nothing in the job itself proves whose it is.

        Calls that ask the same are exchangeable: one has the job, and the other looks further. Who
        made it writes so where its own rows are. Of those who find it one goes on, and keeps its
        maker, who may be about to write that anywhere, from having it too.
        """
        home, row = self.ticket.rows, ledger.held(job.id)
        mine = Held(key=self.ticket.key, id=job.id)
        if how != "created":
            guard = mine.model_copy(update={"guard": True})
            single, *packs = await stores_of(home)
            if not await self._holds(single, ledger.found(job.id), guard):
                return False
            for store in (single, *packs):
                if store is not home and not await self._holds(store, row, guard):
                    return False
        return await self._holds(home, row, mine)

    async def _holds(self, store: RowStore, row: str, mine: Held) -> bool:
        if await store.write(row, mine.model_dump_json()):
            return True
        stored = await store.get(row)
        return stored is not None and ledger.parsed(Held, row, stored).key == mine.key

    async def leave_out_held(self) -> None:
        """Note which jobs other calls of the flow run have, if Prefect can give them at once."""
        with suppress(LedgerError):
            for store in await stores_of(self.ticket.rows):
                for row, written in (await store.read(ledger.held(""))).items():
                    held = ledger.parsed(Held, row, written.value)
                    if held.key != self.ticket.key and not held.guard:
                        self.others.add(held.id)


async def show(client: Client, job: J, *, shown: bool) -> J:
    """Let Prefect's UI show a job; it is canceled if the caller is interrupted meanwhile."""
    if shown:
        try:
            await announce(job)
        except asyncio.CancelledError:
            await see_through(abandon(client, job, interrupted=True))
            raise
    return job
