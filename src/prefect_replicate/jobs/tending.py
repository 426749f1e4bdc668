"""Cancel the jobs that nobody wants any more, and those that nobody knows of.

For flow runs that are not at work: what was written about their calls says which jobs there are. A
tombstone is written before anything is canceled, so that a process that is still alive, or wakes
up, submits nothing more; and lists are looked through for what a create made that nobody recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import ReplicateError
from prefect_replicate.api.resources import Job, Prediction, Training
from prefect_replicate.jobs import ledger
from prefect_replicate.jobs.books import (
    Book,
    BookOfCall,
    BookOfFlowRun,
    Call,
    Stray,
    orphaned,
    strays,
)
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.ledger import Claim, Generation, Margins, Named
from prefect_replicate.jobs.lost import look
from prefect_replicate.jobs.rows import Rows
from prefect_replicate.jobs.settled import Ticket, remember
from prefect_replicate.jobs.watch import abandon, reading
from prefect_replicate.settings import ReplicateSettings, read_settings

# Finds who can see, and cancel, the job of a claim.
Payer: TypeAlias = Callable[[Claim], Awaitable[Client]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a flow run still wants.

    Attributes:
        jobs: Why its jobs are not wanted any more, None if they are.
        claims: Why creates of which nobody knows what they made are not, None if they are.
    """

    jobs: str | None = None
    claims: str | None = None


@dataclass(frozen=True, slots=True)
class Deed:
    """One thing that was done.

    Attributes:
        job: The job that it was done to; None for a call that had none.
        call: The key of the call.
        what: It, in words, with what became of the job and the money.
    """

    job: Job | None
    call: str
    what: str


@dataclass(frozen=True, slots=True)
class Running:
    """A job whose end is not written down; of it only the kind and the id are known.

    Attributes:
        job: It.
        claim: What it was made by.
        ticket: Its call.
        generation: Of the call.
    """

    job: Job
    claim: Claim
    ticket: Ticket
    generation: int


@dataclass(slots=True)
class Tended:
    """What was done for one flow run.

    Attributes:
        deeds: What was done.
        troubles: What could not be done, and why.
        running: Jobs whose ends are not written down.
        finished: Nothing is left to do, whatever time passes.
    """

    deeds: list[Deed] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    finished: bool = True


async def tend(
    rows: Rows,
    payer: Payer,
    wanted: Wanted,
    attempts: Iterable[str] = (),
    only: Callable[[Claim], bool] = lambda _: True,
) -> Tended:
    """Cancel what a flow run does not want, and look for what nobody knows of.

    It can be done again at any time: what is done already is not done twice.

    Args:
        rows: What is written about the flow run.
        payer: Finds who can cancel the job of a claim.
        wanted: What it still wants.
        attempts: All runs of the flow so far. None of them may submit anything any more.
        only: Whose claims are meant.

    Raises:
        LedgerError: The ledger cannot be read or written; jobs may run on.
    """
    tending = _Tending(BookOfFlowRun(rows), payer, wanted, tuple(attempts), only)
    await tending.do()
    return tending.told


def look_later(client: Client, ticket: Ticket, margins: Margins) -> None:
    """Look for second jobs of a call when all margins of its claims are over, and once more.

    For who has just recorded its job, though somebody else may have made one too. It is done beside
    what the process does, and by the sweep if the process ends before.
    """
    looking = asyncio.create_task(_later(client, ticket, margins))
    _looking.add(looking)
    looking.add_done_callback(_looking.discard)


# Kept, since the loop itself keeps no hold of a task that nobody awaits.
_looking: set[asyncio.Task[None]] = set()


async def _later(client: Client, ticket: Ticket, margins: Margins) -> None:
    async def payer(_: Claim) -> Client:
        return client

    for pause in (margins.quarantine, read_settings().ledger_late):
        await asyncio.sleep(pause)
        tending = _Tending(BookOfCall(ticket), payer, Wanted())
        try:
            await tending.do()
        except Exception as error:  # noqa: BLE001 - whatever Prefect's client raises, the sweep looks too
            tending.told.troubles.append(str(error))
        for deed in tending.told.deeds:
            run_logger().error(deed.what)
        for trouble in tending.told.troubles:
            run_logger().warning("A second job of a call was looked for: %s", trouble)


@dataclass(slots=True)
class _Tending:
    book: Book
    payer: Payer
    wanted: Wanted
    attempts: tuple[str, ...] = ()
    only: Callable[[Claim], bool] = lambda _: True
    told: Tended = field(default_factory=Tended)
    settings: ReplicateSettings = field(default_factory=read_settings)

    async def do(self) -> None:
        found = await self.book.calls()
        for call in found:
            for generation in call.generations:
                if any(map(self.only, generation.claims.values())):
                    await self._tend(call, generation)
        await self._look(await self.book.calls() if self.told.deeds else found)

    async def _tend(self, call: Call, generation: Generation) -> None:
        job = generation.job
        if job is None:
            if generation.open is not None:
                await self._bury(call, generation)
        elif job.id and generation.end is None:
            running = _running(call, generation, job)
            if self.wanted.jobs is None:
                self.told.running.append(running)
            else:
                await self._cancel(running, self.wanted.jobs)

    async def _bury(self, call: Call, generation: Generation) -> None:
        """Say that there is to be no job. Whoever records one later finds that, and cancels it."""
        if (why := self.wanted.claims) is None:
            self.told.finished = False
            return
        stone = Named(id=None, how=why, canceled=self.attempts)
        row = ledger.name(call.key, generation.number, "job")
        if await call.store.write(row, stone.model_dump_json()):
            what = f"A create of which it is not known what it made is given up: {why}"
            self.told.deeds.append(Deed(None, call.key, what))
            return
        stored = await call.store.get(row)
        named = ledger.parsed(Named, row, stored) if stored else None
        if named and named.id and self.wanted.jobs is not None:
            await self._cancel(_running(call, generation, named), self.wanted.jobs)

    async def _cancel(self, running: Running, why: str) -> None:
        client = await self._client(running.claim, f"Job {running.job.id} may run on")
        if client is not None:
            remember(running.job, running.ticket, running.generation)
            await self._end(client, running.job, running.ticket.key, why)

    async def _end(self, client: Client, job: Job, key: str, why: str) -> None:
        left = await abandon(client, job)
        if left.job is job:  # no answer
            self._trouble(left.fate)
            return
        self.told.deeds.append(Deed(left.job, key, f"{why}. {left.fate}"))
        self.told.finished &= left.job.done

    async def _client(self, claim: Claim, otherwise: str) -> Client | None:
        try:
            return await self.payer(claim)
        except ReplicateError as error:
            self._trouble(f"{otherwise}: {error}")
            return None

    def _trouble(self, what: str) -> None:
        self.told.troubles.append(what)
        self.told.finished = False

    async def _look(self, found: list[Call]) -> None:
        """Cancel what creates have made beside the job that counts, or though there is none."""
        may_have = list(strays(found, await self.book.now()))
        held = await self.book.held()
        for call, job_id in orphaned(found, held):
            await self._let_go(call, job_id)
        jobs = [each.job for call in found for each in call.generations]
        known = {job.id for job in jobs if job and job.id} | {each.id for each in held}
        for stray in may_have:
            self.told.finished &= (
                stray.age > stray.claim.margins.quarantine + read_settings().ledger_late
            )
            client = await self._client(stray.claim, "A job that nobody knows of may run")
            if client is not None:
                await self._look_for(client, stray, known)

    def _until(self, claim: Claim) -> float:
        """Seconds after a claim until which a job of it may still turn up."""
        return claim.margins.quarantine + self.settings.ledger_late

    async def _let_go(self, call: Call, job_id: str) -> None:
        """Cancel a job that was kept for a call which has another one."""
        claims = call.generations[-1].claims
        claim = claims[max(claims)]
        client = await self._client(claim, f"Job {job_id}, which no call has, may run on")
        if client is None:
            return
        try:
            job = await client.send(reading(_stub(claim, job_id)))
        except ReplicateError as error:
            self._trouble(f"Job {job_id}, which no call has, may run on: {error}")
            return
        if not job.done:
            await self._end(client, job, call.key, "A job was kept for a call that has another one")

    async def _look_for(self, client: Client, stray: Stray, known: set[str]) -> None:
        proof = self.settings.ledger_orphans == "token"
        found = await look(client, stray.claim, stray.age, known, proof=proof)
        if found is None:
            self._trouble("A job that nobody knows of may run: the list of jobs could not be read")
        if found is None or found.mine is None or found.mine.done:
            return
        if stray.claim.webhook is None and not await self._is_nobodys(client, found.mine, stray):
            return
        known.add(found.mine.id)
        named = stray.generation.job
        ran = client.now() - (found.mine.created_at or client.now())
        beside = f"beside {named.id}" if named and named.id else "of a call that was given up"
        why = f"A job {beside} ran for {ran.total_seconds():.0f} s"
        await self._end(client, found.mine, stray.call.key, why)

    async def _is_nobodys(self, client: Client, job: Job, stray: Stray) -> bool:
        """Whether a job that does not say whose it is belongs to no call of another flow run.

        Whoever made it has said so by now, if it is older than all margins.
        """
        age = (client.now() - (job.created_at or client.now())).total_seconds()
        if age <= stray.claim.margins.quarantine or stray.age - age > self._until(stray.claim):
            return False
        return not await self.book.is_held_elsewhere(job.id)


def _running(call: Call, generation: Generation, named: Named) -> Running:
    claim = generation.claims[named.claim or max(generation.claims)]
    ticket = Ticket(call.store, call.key, claim.fingerprint, named.attempt, claim.run)
    return Running(_stub(claim, named.id or ""), claim, ticket, generation.number)


def _stub(claim: Claim, job_id: str) -> Job:
    """A job of which only the kind and the id are known."""
    kind = Training if claim.trains else Prediction
    return kind(id=job_id, status="unknown")
