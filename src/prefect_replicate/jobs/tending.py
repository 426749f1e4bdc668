"""Cancel the jobs that nobody wants any more, and those that nobody knows of.

For flow runs that are not at work: what was written about their calls says which jobs there are. A
tombstone is written before anything is canceled, so that a process that is still alive, or wakes
up, submits nothing more; and lists are looked through for what a create made that nobody recorded.
"""

from __future__ import annotations

import string
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import ReplicateError
from prefect_replicate.api.resources import Job, Prediction, Training
from prefect_replicate.jobs import ledger
from prefect_replicate.jobs.flow_run import tagged
from prefect_replicate.jobs.identity import KEY_LETTERS
from prefect_replicate.jobs.ledger import Claim, Generation, Held, Named
from prefect_replicate.jobs.lost import look
from prefect_replicate.jobs.rows import Rows, RowStore, Written
from prefect_replicate.jobs.settled import Ticket, remember
from prefect_replicate.jobs.watch import abandon, reading

# Finds who can see, and cancel, the job of a claim.
Payer: TypeAlias = Callable[[Claim], Awaitable[Client]]
# Seconds after the quarantine of a claim for which a late job of it is looked for.
LOOKED_FOR = 600.0


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


@dataclass(frozen=True, slots=True)
class _Call:
    key: str
    store: RowStore
    written: dict[str, Written]
    generations: list[Generation]


@dataclass(frozen=True, slots=True)
class _Stray:
    """A claim that may have made a job beside the one that counts."""

    call: _Call
    generation: Generation
    claim: Claim
    age: float


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
    tending = _Tending(rows, payer, wanted, tuple(attempts), only)
    await tending.do()
    return tending.told


@dataclass(slots=True)
class _Tending:
    rows: Rows
    payer: Payer
    wanted: Wanted
    attempts: tuple[str, ...]
    only: Callable[[Claim], bool]
    told: Tended = field(default_factory=Tended)

    async def do(self) -> None:
        found = await _calls_of(self.rows)
        for call in found:
            for generation in call.generations:
                if any(map(self.only, generation.claims.values())):
                    await self._tend(call, generation)
        await self._look(await _calls_of(self.rows) if self.told.deeds else found)

    async def _tend(self, call: _Call, generation: Generation) -> None:
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

    async def _bury(self, call: _Call, generation: Generation) -> None:
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

    async def _look(self, found: list[_Call]) -> None:
        """Cancel what creates have made beside the job that counts, or though there is none."""
        now = await self.rows.now()
        strays = sorted(_strays(found, now), key=lambda stray: -stray.age)
        held = await _held(self.rows, [call.store for call in found])
        for call, job_id in _orphaned(found, held):
            await self._let_go(call, job_id)
        jobs = [each.job for call in found for each in call.generations]
        known = {job.id for job in jobs if job and job.id} | {each.id for each in held}
        for stray in strays:
            self.told.finished &= stray.age > stray.claim.margins.quarantine + LOOKED_FOR
            client = await self._client(stray.claim, "A job that nobody knows of may run")
            if client is not None:
                await self._look_for(client, stray, known)

    async def _let_go(self, call: _Call, job_id: str) -> None:
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

    async def _look_for(self, client: Client, stray: _Stray, known: set[str]) -> None:
        found = await look(client, stray.claim, stray.age, known)
        if found is None:
            self._trouble("A job that nobody knows of may run: the list of jobs could not be read")
        if found is None or found.mine is None or found.mine.done:
            return
        if stray.claim.webhook is None and not await self._is_nobodys(client, found.mine, stray):
            self.told.finished = False
            return
        known.add(found.mine.id)
        named = stray.generation.job
        ran = client.now() - (found.mine.created_at or client.now())
        beside = f"beside {named.id}" if named and named.id else "of a call that was given up"
        why = f"A job {beside} ran for {ran.total_seconds():.0f} s"
        await self._end(client, found.mine, stray.call.key, why)

    async def _is_nobodys(self, client: Client, job: Job, stray: _Stray) -> bool:
        """Whether a job that does not say whose it is belongs to no call of another flow run.

        Whoever made it has said so by now, if it is older than all margins.
        """
        age = (client.now() - (job.created_at or client.now())).total_seconds()
        quarantine = stray.claim.margins.quarantine
        if not quarantine < age or stray.age - age > quarantine + LOOKED_FOR:
            return False
        for run in await tagged():
            if run.id != self.rows.flow_run_id:
                other = Rows(run.id)
                if job.id in {each.id for each in await _held(other, [])}:
                    return False
        return True


def _running(call: _Call, generation: Generation, named: Named) -> Running:
    claim = generation.claims[named.claim or max(generation.claims)]
    ticket = Ticket(call.store, call.key, claim.fingerprint, named.attempt, claim.run)
    return Running(_stub(claim, named.id or ""), claim, ticket, generation.number)


def _stub(claim: Claim, job_id: str) -> Job:
    """A job of which only the kind and the id are known."""
    return (Training if claim.trains else Prediction)(id=job_id, status="unknown")


def _strays(found: list[_Call], now: datetime | None) -> Iterator[_Stray]:
    for call in found:
        for generation in call.generations:
            for number in generation.strays:
                row = call.written[ledger.name(call.key, generation.number, "c", number)]
                age = (now - row.at).total_seconds() if now and row.at else 0.0
                yield _Stray(call, generation, generation.claims[number], age)


def _orphaned(found: list[_Call], held: list[Held]) -> Iterator[tuple[_Call, str]]:
    """Jobs that are kept for a call which has another one."""
    by_key = {call.key: call for call in found}
    for each in held:
        call = by_key.get(each.key)
        if call and call.generations[-1].claims and all(one.job for one in call.generations):
            named = {one.job.id for one in call.generations if one.job}
            if each.id not in named:
                yield call, each.id


async def _calls_of(rows: Rows) -> list[_Call]:
    """All calls of a flow run, and where what is written about them is kept."""
    found: list[_Call] = []
    direct = await rows.read_all(ledger.PREFIX, KEY_LETTERS)
    for store, written in [(rows, direct)]:
        for key, names in ledger.calls(written).items():
            mine = {name: written[name] for name in names}
            generations = ledger.read({name: row.value for name, row in mine.items()})
            found.append(_Call(key, store, mine, generations))
    return found


async def _held(rows: Rows, stores: Iterable[RowStore]) -> list[Held]:
    """Which jobs calls of a flow run have, where the jobs do not say so themselves."""
    prefix = ledger.held("")
    written = await rows.read_all(prefix, string.ascii_lowercase + string.digits)
    for store in {id(store): store for store in stores if store is not rows}.values():
        written |= await store.read(prefix)
    return [ledger.parsed(Held, row, each.value) for row, each in written.items()]
