"""Create a job: send the one request that costs money, once for each call, and lose nothing of it.

What follows from what is written about a call is in `ledger`; here it is carried out.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from prefect_replicate.api import calls
from prefect_replicate.api.calls import Call
from prefect_replicate.api.client import Client, InterruptedCreate, see_through
from prefect_replicate.api.errors import (
    CreateUnknownError,
    JobCanceled,
    JobFateUnknown,
    LedgerError,
    ReplicateError,
)
from prefect_replicate.api.resources import Job
from prefect_replicate.jobs import ledger, orphans
from prefect_replicate.jobs.announce import announce
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.ledger import (
    Claim,
    End,
    Generation,
    Held,
    Margins,
    Named,
    ToClaim,
    ToLook,
    ToWatch,
    Unwanted,
    Void,
)
from prefect_replicate.jobs.settled import Ticket, remember, this_process
from prefect_replicate.jobs.watch import abandon

J = TypeVar("J", bound=Job)

# Two clocks of one server may be this far apart, as it tells the time in whole seconds.
_SECOND = 2.0
# Seconds by which the list is read further back than the claim is old.
_FURTHER = 120.0
_RECORD_EVERY = 1.0
_READ_AGAIN = 1.0


class _Taken(Exception):
    """Another attempt has claimed, or recorded a job, meanwhile."""


@dataclass(frozen=True, slots=True)
class Request(Generic[J]):
    """One call that makes a job.

    Attributes:
        make: Gives the create for one claim, and the seconds from the job's creation to its
            deadline if it has one. Each claim has a webhook or life of its own, by which its job is
            known.
        wanted: What else is known of the job, by `orphans.wanted`.
        trains: It is a training.
        margins: How long each part may take.
        look_every: Seconds between looks for a job whose create got no answer.
        patience: Seconds for which a job may wait to be recorded.
        shown: Whether Prefect's UI shows the job by itself; of a thousand it should not.
    """

    make: Callable[[int, int], tuple[Call[J], int | None]]
    wanted: dict[str, Any]
    trains: bool
    margins: Margins
    look_every: float
    patience: float
    shown: bool = True


async def create(client: Client, call: Call[J], *, shown: bool = True) -> J:
    """Create a job that is on no ledger, once.

    When the caller is interrupted while the request is on its way, the job that it made is
    canceled: otherwise it would run on unknown to anybody.

    Args:
        client: Who pays.
        call: The create.
        shown: Whether Prefect's UI shows the job by itself.

    Raises:
        CreateUnknownError: The answer was lost; nothing is sent again.
        ReplicateError: As `Client.send`.
    """
    try:
        job = await client.send(call)
    except InterruptedCreate as interruption:
        await _unwanted(client, interruption)
        raise
    return await _shown(client, _hooked(job, call), shown=shown)


async def obtain(client: Client, ticket: Ticket, request: Request[J]) -> J:
    """The one job of a call: as it was made before, or made now.

    Args:
        client: Who pays.
        ticket: The call.
        request: How to make the job if there is none.

    Raises:
        JobFateUnknown: A create was sent before, and whether it made a job cannot be told.
        JobCanceled: The call was canceled.
        LedgerError: The ledger cannot be read or written; the message says what became of the job.
        ReplicateError: As `Client.send`.
    """
    return await _Obtaining(client, ticket, request, await _account(client)).job()


@dataclass(slots=True)
class _Obtaining(Generic[J]):
    client: Client
    ticket: Ticket
    request: Request[J]
    account: str
    claimed: tuple[int, float] | None = None
    read_at: float = 0.0
    others: set[str] = field(default_factory=set)

    async def job(self) -> J:
        """Do what is to be done until there is a job."""
        while True:
            written = await self.ticket.rows.read(ledger.prefix(self.ticket.key))
            generations = ledger.read({row: each.value for row, each in written.items()})
            self._check(generations)
            self.read_at = _boottime()
            self.others |= {each.job.id for each in generations if each.job and each.job.id}
            step = ledger.next_step(generations, self.ticket.attempt, this_process())
            match step:
                case ToWatch(generation, job_id, end):
                    return await self._rejoin(generation, job_id, end, generations[-1])
                case Unwanted(_, why):
                    raise JobCanceled(
                        f"The call was canceled before: {why}. Nothing was submitted."
                    )
                case ToClaim(generation, number):
                    job = await self._create(generation, number)
                case ToLook(generation, number, claim):
                    row = ledger.name(self.ticket.key, generation, "c", number)
                    job = await self._find(generation, number, claim, written[row].at)
            if job is not None:
                return job

    def _check(self, generations: list[Generation]) -> None:
        for claim in (claim for each in generations for claim in each.claims.values()):
            if claim.account != self.account:
                raise LedgerError(
                    f"This call was made as {claim.account!r} before, and these credentials are of "
                    f"{self.account!r}, who cannot see its job. Use those of before. Nothing was "
                    f"submitted."
                )

    async def _rejoin(
        self, generation: int, job_id: str, end: End | None, written: Generation
    ) -> J:
        get: Callable[[str], Call[Any]] = (
            calls.trainings_get if self.request.trains else calls.predictions_get
        )
        job: J = await self.client.send(get(job_id))
        run_logger().info("This call has its job already, %s: %s", job.status, job.id)
        if job.data_removed and end and end.kept:
            job = job.model_copy(update={"output": end.output, "data_removed": False})
        claim = written.claims.get(written.job.claim if written.job else 0)
        if claim and claim.webhook and job.webhook is None:
            job = job.model_copy(update={"webhook": claim.webhook})
        if end is None:
            remember(job, self.ticket, generation)
        return await _shown(self.client, job, shown=self.request.shown)

    async def _create(self, generation: int, number: int) -> J | None:
        self.claimed = None

        call, life = self.request.make(generation, number)

        async def before() -> None:
            await self._claim(generation, number, call, life)

        try:
            made = await self.client.send(call, before)
        except _Taken:
            return None
        except InterruptedCreate as interruption:
            proven = call.hook is not None
            await see_through(self._interrupted(generation, interruption, proven=proven))
            raise
        except CreateUnknownError as error:
            run_logger().warning("%s Looking for its job.", error)
            return None
        except ReplicateError as error:
            if self.claimed:
                await self._void(generation, self.claimed[0], f"refused: {error}"[:500])
            raise
        return await self._keep(generation, _hooked(made, call), proven=call.hook is not None)

    async def _interrupted(
        self, generation: int, interruption: InterruptedCreate, *, proven: bool
    ) -> None:
        job = interruption.result
        if isinstance(job, Job):
            if await self._record(generation, job, "created", proven=proven) is None:
                return  # another call has it
            remember(job, self.ticket, generation)
        await _unwanted(self.client, interruption)

    async def _claim(self, generation: int, number: int, call: Call[J], life: int | None) -> None:
        """Claim right before the create is sent; again if that took too long.

        Raises:
            _Taken: Another attempt has claimed, or recorded a job, meanwhile.
            LedgerError: Whether it is claimed is not known. Nothing is sent.
        """
        request, margins = self.request, self.request.margins
        while True:
            if self.claimed:
                number, begun = self.claimed
                if _boottime() - begun <= margins.send:
                    return
                await self._void(generation, number, "stalled before it was sent")
                if await self._recorded(generation):
                    raise _Taken
                number += 1
            begun = _boottime()
            claim = Claim(
                nonce=secrets.token_hex(16),
                fingerprint=self.ticket.fingerprint,
                api=self.client.base_url,
                account=self.account,
                block=self.client.saved_as,
                run=self.ticket.run,
                trains=request.trains,
                webhook=call.hook.url if call.hook else None,
                life=life,
                wanted=request.wanted,
                margins=margins,
            )
            row = ledger.name(self.ticket.key, generation, "c", number)
            if not await self.ticket.rows.write(row, claim.model_dump_json()):
                # It may be one's own, whose answer was lost.
                stored = await self.ticket.rows.get(row)
                if stored is None or ledger.parsed(Claim, row, stored).nonce != claim.nonce:
                    raise _Taken
            self.claimed = (number, begun)
            # While it waited for its turn, somebody may have canceled the call, or made its job.
            if begun - self.read_at > _READ_AGAIN and await self._recorded(generation):
                await self._void(generation, number, "not sent: the call has its job already")
                raise _Taken

    async def _void(self, generation: int, number: int, reason: str) -> None:
        """Say that a claim made no job. Where that cannot be written, somebody has to look."""
        row = ledger.name(self.ticket.key, generation, "v", number)
        try:
            await self.ticket.rows.write(row, Void(reason=reason).model_dump_json())
        except LedgerError as error:
            run_logger().warning("%s It is not written down that no job was made.", error)

    async def _recorded(self, generation: int) -> Named | None:
        row = ledger.name(self.ticket.key, generation, "job")
        stored = await self.ticket.rows.get(row)
        return None if stored is None else ledger.parsed(Named, row, stored)

    async def _keep(
        self, generation: int, job: J, how: str = "created", *, proven: bool
    ) -> J | None:
        """Record a job as the one that counts; None if another counts, and this one is canceled."""
        recording = asyncio.ensure_future(self._record(generation, job, how, proven=proven))
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
        return await _shown(self.client, job, shown=self.request.shown)

    async def _give_up(
        self, generation: int, job: J, recording: asyncio.Future[bool | None]
    ) -> None:
        await asyncio.wait([recording], timeout=_RECORD_EVERY * 5)
        if recording.done() and not recording.exception() and recording.result() is None:
            return  # another call has it
        recording.cancel()
        remember(job, self.ticket, generation)
        await abandon(self.client, job, interrupted=True)

    async def _record(self, generation: int, job: Job, how: str, *, proven: bool) -> bool | None:
        """Whether a job is the one that counts; None if it counts for another call.

        Args:
            generation: Of the call.
            job: It.
            how: "created" or "adopted".
            proven: The job itself proves whose it is, by its webhook.

        Raises:
            LedgerError: The ledger was away for as long as the job may wait; it was canceled.
        """
        number = self.claimed[0] if self.claimed else 0
        named = Named(id=job.id, claim=number, how=how, attempt=self.ticket.attempt)
        row = ledger.name(self.ticket.key, generation, "job")
        until = _boottime() + self.request.patience
        while True:
            try:
                if not (proven or await self._hold(job)):
                    self.others.add(job.id)
                    return None
                if await self.ticket.rows.write(row, named.model_dump_json()):
                    return True
                stored = await self._recorded(generation)
            except LedgerError as error:
                if _boottime() > until:
                    left = await abandon(self.client, job)
                    raise LedgerError(f"{error} {left.fate}.") from error
                run_logger().warning("%s Job %s waits to be recorded.", error, job.id)
                await asyncio.sleep(_RECORD_EVERY)
            else:
                return stored is not None and stored.id == job.id

    async def _hold(self, job: Job) -> bool:
        """Whether a job is this call's, where nothing in the job itself proves whose it is.

        Calls that ask the same are exchangeable: one has the job, and the other looks further.
        """
        row = ledger.held(job.id)
        held = Held(key=self.ticket.key, id=job.id)
        if await self.ticket.rows.write(row, held.model_dump_json()):
            return True
        stored = await self.ticket.rows.get(row)
        return stored is not None and ledger.parsed(Held, row, stored).key == self.ticket.key

    async def _leave_out_held(self) -> None:
        """Note which jobs other calls of the flow run have, if Prefect can give them at once."""
        with suppress(LedgerError):
            for row, written in (await self.ticket.rows.read(ledger.held(""))).items():
                held = ledger.parsed(Held, row, written.value)
                if held.key != self.ticket.key:
                    self.others.add(held.id)

    async def _find(
        self, generation: int, number: int, claim: Claim, written: datetime | None
    ) -> J | None:
        """The job of a claim whose writer said nothing more, or a new one if it made none."""
        run_logger().info("A create was sent before, and its answer lost. Looking for its job.")
        self.claimed = (number, 0.0)
        began, quarantine = _boottime(), claim.margins.quarantine
        while True:
            seen = _boottime() - began
            now = await self.ticket.rows.now()
            age = max(seen, (now - written).total_seconds() - _SECOND if now and written else 0.0)
            await self._leave_out_held()
            found = await self._look(claim, age)
            proven = claim.webhook is not None
            # A training has nothing of its own: it is known by being the only one, in a whole list.
            if found and found.mine and (proven or not claim.trains or age > quarantine):
                mine: J = found.mine  # type: ignore[assignment]  # of the claim's kind
                kept = await self._keep(generation, mine, "adopted", proven=proven)
                if kept or found.mine.id not in self.others:
                    return kept
                continue
            if age > quarantine:
                if found is None or found.possible:
                    raise self._unknown(claim, age, found)
                return await self._create(generation, number + 1)
            await asyncio.sleep(min(self.request.look_every, max(0.1, quarantine - age)))

    async def _look(self, claim: Claim, age: float) -> orphans.Found | None:
        """What the list says, None if it could not be read to its end."""
        since = self.client.now() - timedelta(seconds=age + _FURTHER)
        listed: list[Job] = []
        try:
            if claim.trains:
                async for training in self.client.pages(calls.trainings_list()):
                    if training.created_at and training.created_at < since:
                        break
                    listed.append(training)
            else:
                call = calls.predictions_list(created_after=since.isoformat())
                listed += [job async for job in self.client.pages(call)]
        except ReplicateError as error:
            run_logger().warning("The list of jobs could not be read: %s", error)
            return None
        return orphans.sort(claim, listed, since, self.others)

    def _unknown(self, claim: Claim, age: float, found: orphans.Found | None) -> JobFateUnknown:
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


async def _unwanted(client: Client, interruption: InterruptedCreate) -> None:
    if isinstance(interruption.result, Job):
        await see_through(abandon(client, interruption.result, interrupted=True))
    else:
        run_logger().error("Interrupted: %s", interruption.result)


async def _shown(client: Client, job: J, *, shown: bool) -> J:
    if shown:
        try:
            await announce(job)
        except asyncio.CancelledError:
            await see_through(abandon(client, job, interrupted=True))
            raise
    return job


def _hooked(job: J, call: Call[J]) -> J:
    """A job with the webhook that it was created with: not every API gives it back."""
    if call.hook and job.webhook is None:
        return job.model_copy(update={"webhook": call.hook.url})
    return job


_accounts: WeakKeyDictionary[Client, str] = WeakKeyDictionary()


async def _account(client: Client) -> str:
    if client not in _accounts:
        account = await client.send(calls.account_get())
        _accounts[client] = f"{account.type} {account.username}"
    return _accounts[client]


def _boottime() -> float:
    """Seconds of a clock that goes on while the machine sleeps, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
