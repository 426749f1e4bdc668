"""Create a job: send the one request that costs money, once for each call, and lose nothing of it.

What follows from what is written about a call is in `ledger`; here it is carried out.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from prefect_replicate.api.calls import Call, Hook
from prefect_replicate.api.client import Client, InterruptedCreate, see_through
from prefect_replicate.api.errors import (
    CreateUnknownError,
    JobCanceled,
    JobFateUnknown,
    LedgerError,
    ReplicateError,
)
from prefect_replicate.api.resources import Job
from prefect_replicate.jobs import by_hand, ledger
from prefect_replicate.jobs.choices import Choices
from prefect_replicate.jobs.clocks import boottime
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.ledger import (
    FRESH,
    Claim,
    End,
    Generation,
    Margins,
    Named,
    ToClaim,
    ToLook,
    ToWatch,
    Unwanted,
)
from prefect_replicate.jobs.lost import Age, look, unknown
from prefect_replicate.jobs.packs import Pack
from prefect_replicate.jobs.recording import Recorder, show
from prefect_replicate.jobs.settled import Ticket, remember, this_process
from prefect_replicate.jobs.tending import look_later
from prefect_replicate.jobs.watch import abandon

J = TypeVar("J", bound=Job)

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
        mismatch: Says why a job cannot be of what is asked for, None if it can.
        proof: Only a webhook proves that a job is this call's.
        choices: What the caller says of the call itself, where there is a way to say it.
        shown: Whether Prefect's UI shows the job by itself; of a thousand it should not.
    """

    make: Callable[[int, int], tuple[Call[J], int | None]]
    wanted: dict[str, Any]
    trains: bool
    margins: Margins
    look_every: float
    patience: float
    mismatch: Callable[[Job], str | None]
    proof: bool = False
    choices: Choices | None = None
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
    return await show(client, _hooked(job, call), shown=shown)


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
    recorder = Recorder(client, ticket, request.patience, shown=request.shown)
    return await _Obtaining(client, ticket, request, await client.account(), recorder).job()


@dataclass(slots=True)
class _Obtaining(Generic[J]):
    client: Client
    ticket: Ticket
    request: Request[J]
    account: str
    recorder: Recorder
    generations: list[Generation] = field(default_factory=list)
    claimed: tuple[int, float] | None = None
    read_at: float = 0.0

    async def job(self) -> J:
        """Do what is to be done until there is a job."""
        while True:
            written = await self.ticket.rows.read(ledger.prefix(self.ticket.key))
            self.generations = ledger.read({row: each.value for row, each in written.items()})
            await self._check()
            self.read_at = boottime()
            self.recorder.others |= {
                each.job.id for each in self.generations if each.job and each.job.id
            }
            step = ledger.next_step(
                self.generations, self.ticket.attempt, this_process(), self.ticket.runs
            )
            adopt = self.request.choices.adopt if self.request.choices else None
            match step:
                case ToWatch(_, job_id) if adopt not in {None, job_id}:
                    raise by_hand.has_another(job_id, str(adopt))
                case ToWatch(generation, job_id, end):
                    return await self._rejoin(generation, job_id, end, self.generations[-1])
                case ToClaim() | ToLook() if adopt:
                    job = await self._adopt(step, adopt)
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
                if self._may_have_another():
                    look_later(self.client, self.ticket, self.request.margins)
                return job

    def _may_have_another(self) -> bool:
        """Whether an earlier create may yet turn out to have made a job."""
        again = self.claimed is not None and self.claimed[0] > 1
        return again or any(each.job and each.job.id is None for each in self.generations)

    async def _check(self) -> None:
        claims = [(one, each) for each in self.generations for one in each.claims.items()]
        for (number, claim), written in claims:
            if claim.account != self.account:
                raise LedgerError(
                    f"This call was made as {claim.account!r} before, and these credentials are of "
                    f"{self.account!r}, who cannot see its job. Use those of before. Nothing was "
                    f"submitted."
                )
            # What was refused has made nothing, and may be asked otherwise.
            if claim.fingerprint != self.ticket.fingerprint and number not in written.voids:
                raise await by_hand.not_the_same(
                    self.client, self.ticket, self.generations, trains=claim.trains
                )

    async def _rejoin(
        self, generation: int, job_id: str, end: End | None, written: Generation
    ) -> J:
        job: J = await self.client.send(by_hand.reading_id(job_id, trains=self.request.trains))
        run_logger().info("This call has its job already, %s: %s", job.status, job.id)
        if job.data_removed and end and end.kept:
            job = job.model_copy(update={"output": end.output, "data_removed": False})
        claim = written.claims.get(written.job.claim if written.job else 0)
        if claim and claim.webhook and job.webhook is None:
            job = job.model_copy(update={"webhook": claim.webhook})
        if end is None:
            remember(job, self.ticket, generation)
        return await show(self.client, job, shown=self.request.shown)

    async def _create(self, generation: int, number: int) -> J | None:
        self.claimed = None

        call, life = self.request.make(generation, number)

        async def before() -> None:
            await self._claim(generation, number, call.hook, life)

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
                await self.recorder.void(generation, self.claimed[0], f"refused: {error}"[:500])
            raise
        return await self._keep(generation, _hooked(made, call), proven=call.hook is not None)

    async def _interrupted(
        self, generation: int, interruption: InterruptedCreate, *, proven: bool
    ) -> None:
        job = interruption.result
        if isinstance(job, Job):
            named = self._named(job, "created")
            counts = await self.recorder.record(generation, job, named, proven=proven)
            if counts is None:
                return  # another call has it
            if not counts:
                await abandon(self.client, job)
                return
            remember(job, self.ticket, generation)
        await _unwanted(self.client, interruption)

    async def _claim(
        self, generation: int, number: int, hook: Hook | None, life: int | None
    ) -> None:
        """Claim right before the create is sent; again if that took too long.

        Raises:
            _Taken: Another attempt has claimed, or recorded a job, meanwhile.
            LedgerError: Whether it is claimed is not known. Nothing is sent.
        """
        request, margins = self.request, self.request.margins
        while True:
            if self.claimed:
                number, begun = self.claimed
                if boottime() - begun <= margins.send:
                    return
                await self.recorder.void(generation, number, "stalled before it was sent")
                if await self.recorder.recorded(generation):
                    raise _Taken
                number += 1
            begun = boottime()
            claim = Claim(
                nonce=secrets.token_hex(16),
                fingerprint=self.ticket.fingerprint,
                api=self.client.base_url,
                account=self.account,
                block=self.client.saved_as,
                run=self.ticket.run,
                trains=request.trains,
                webhook=hook.url if hook else None,
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
            # What a pack knew before the claim may be older still, and to ask it costs nothing.
            late = begun - self.read_at > _READ_AGAIN or isinstance(self.ticket.rows, Pack)
            if late and await self.recorder.recorded(generation):
                await self.recorder.void(
                    generation, number, "not sent: the call has its job already"
                )
                raise _Taken

    async def _find(
        self, generation: int, number: int, claim: Claim, written: datetime | None
    ) -> J | None:
        """The job of a claim whose writer said nothing more, or a new one if it made none."""
        run_logger().info("A create was sent before, and its answer lost. Looking for its job.")
        self.claimed = (number, 0.0)
        age, quarantine = Age(self.ticket.rows, written), claim.margins.quarantine
        while True:
            old = await age.seconds()
            await self.recorder.leave_out_held()
            found = await look(
                self.client, claim, old, self.recorder.others, proof=self.request.proof
            )
            proven = claim.webhook is not None
            # A training has nothing of its own: it is known by being the only one, in a whole list.
            if found and found.mine and (proven or not claim.trains or old > quarantine):
                mine: J = found.mine  # type: ignore[assignment]  # of the claim's kind
                kept = await self._keep(generation, mine, "adopted", proven=proven)
                if kept or found.mine.id not in self.recorder.others:
                    return kept
                continue
            if old > quarantine:
                if found is None or found.possible:
                    ways_out = self.request.choices is not None
                    doubt = unknown(claim, old, found, ways_out=ways_out)
                    await self._bury(generation, number, doubt)
                    return None
                return await self._create(generation, number + 1)
            await asyncio.sleep(min(self.request.look_every, max(0.1, quarantine - old)))

    async def _bury(self, generation: int, number: int, doubt: JobFateUnknown) -> None:
        """Say that whatever a claim made does not count, if the caller wants another job.

        Once in an attempt of the flow run: what is then in doubt again stays in doubt.

        Raises:
            JobFateUnknown: The caller wants no other, or has had it.
        """
        attempt = self.ticket.attempt
        had = any(
            each.job and each.job.how == FRESH and each.job.attempt == attempt
            for each in self.generations
        )
        if had or not (self.request.choices and self.request.choices.fresh):
            raise doubt
        run_logger().warning("%s Another job is made, as `fresh` says.", doubt)
        tombstone = Named(id=None, claim=number, how=FRESH, attempt=attempt)
        row = ledger.name(self.ticket.key, generation, "job")
        await self.ticket.rows.write(row, tombstone.model_dump_json())

    async def _adopt(self, step: ToClaim | ToLook, job_id: str) -> J | None:
        """Take a job that the caller says is this call's; None if that is not the last word."""
        last = self.generations[-1] if self.generations else None
        if last and last.job and last.job.id == job_id:
            return await self._rejoin(last.number, job_id, last.end, last)
        job: J = await by_hand.offered(
            self.client, job_id, self.request.mismatch, trains=self.request.trains
        )
        number = step.number if isinstance(step, ToLook) else await self._claim_unsent(step)
        if number is None:
            return None
        self.claimed = (number, 0.0)
        named = self._named(job, by_hand.ADOPTED)
        counts = await self.recorder.record_once(step.generation, job, named)
        if counts is None:
            if isinstance(step, ToClaim):
                await self.recorder.void(step.generation, number, "nothing was sent")
            raise by_hand.held_by_another(job_id)
        if not counts:
            return None
        run_logger().info("This call has adopted job %s, which is '%s'", job_id, job.status)
        remember(job, self.ticket, step.generation)
        return await show(self.client, job, shown=self.request.shown)

    async def _claim_unsent(self, step: ToClaim) -> int | None:
        """Claim without a create, so that another process knows what was asked, and by whom."""
        self.claimed = None
        life = self.request.make(step.generation, step.claim)[1]
        with suppress(_Taken):
            await self._claim(step.generation, step.claim, None, life)
        return self.claimed[0] if self.claimed else None

    async def _keep(
        self, generation: int, job: J, how: str = "created", *, proven: bool
    ) -> J | None:
        """Record a job as the one that counts; None if another counts, and this one is canceled.

        Every job that was created, or found after its answer was lost, comes by here.
        """
        return await self.recorder.keep(generation, job, self._named(job, how), proven=proven)

    def _named(self, job: Job, how: str) -> Named:
        number = self.claimed[0] if self.claimed else 0
        return Named(id=job.id, claim=number, how=how, attempt=self.ticket.attempt)


async def _unwanted(client: Client, interruption: InterruptedCreate) -> None:
    if isinstance(interruption.result, Job):
        await see_through(abandon(client, interruption.result, interrupted=True))
    else:
        run_logger().error("Interrupted: %s", interruption.result)


def _hooked(job: J, call: Call[J]) -> J:
    """A job with the webhook that it was created with: not every API gives it back."""
    if call.hook and job.webhook is None:
        return job.model_copy(update={"webhook": call.hook.url})
    return job
