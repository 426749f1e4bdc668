"""What is written about calls, read as a whole: for whoever comes after those that made them."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from prefect_replicate.jobs import ledger
from prefect_replicate.jobs.flow_run import tagged
from prefect_replicate.jobs.identity import KEY_LETTERS
from prefect_replicate.jobs.ledger import Claim, Generation, Held
from prefect_replicate.jobs.packs import packs_of
from prefect_replicate.jobs.rows import Rows, RowStore, Written
from prefect_replicate.jobs.settled import Ticket


@dataclass(frozen=True, slots=True)
class Call:
    """All that is written about a call, and where."""

    key: str
    store: RowStore
    written: dict[str, Written]
    generations: list[Generation]


@dataclass(frozen=True, slots=True)
class Stray:
    """A claim that may have made a job beside the one that counts."""

    call: Call
    generation: Generation
    claim: Claim
    age: float


class Book(Protocol):
    """Where it is written what became of calls."""

    async def calls(self) -> list[Call]:
        """All calls that are meant."""

    async def held(self) -> list[Held]:
        """Which jobs calls have, where the jobs do not say so themselves."""

    async def is_held_elsewhere(self, job_id: str) -> bool:
        """Whether a call that is not meant has a job."""

    async def now(self) -> datetime | None:
        """The time by the clock that the rows have theirs from."""


@dataclass(frozen=True, slots=True)
class BookOfFlowRun:
    """What is written about all calls of a flow run."""

    rows: Rows

    async def calls(self) -> list[Call]:
        """All of them."""
        found = _calls_in(self.rows, await self.rows.read_all(ledger.PREFIX, KEY_LETTERS))
        for pack in await packs_of(self.rows):
            found += _calls_in(pack, await pack.read(ledger.PREFIX))
        return found

    async def held(self) -> list[Held]:
        """As `Book` says."""
        return await _held(self.rows)

    async def is_held_elsewhere(self, job_id: str) -> bool:
        """Whether a call of another flow run has a job."""
        for run in await tagged():
            others = [] if run.id == self.rows.flow_run_id else await _held(Rows(run.id))
            if any(each.id == job_id for each in others):
                return True
        return False

    async def now(self) -> datetime | None:
        """By the clock of the rows."""
        return await self.rows.now()


@dataclass(frozen=True, slots=True)
class BookOfCall:
    """What is written about one call."""

    ticket: Ticket

    async def calls(self) -> list[Call]:
        """All of them."""
        store = self.ticket.rows
        return _calls_in(store, await store.read(ledger.prefix(self.ticket.key)))

    async def held(self) -> list[Held]:
        """As `Book` says."""
        return []

    async def is_held_elsewhere(self, job_id: str) -> bool:  # noqa: ARG002 - as `Book` has it
        """Told by the whole flow run only: a job that does not say whose it is, is left to it."""
        return True

    async def now(self) -> datetime | None:
        """By the clock of the rows."""
        return await self.ticket.rows.now()


def strays(found: list[Call], now: datetime | None) -> Iterator[Stray]:
    """The claims that may have made a job beside the one that counts.

    Args:
        found: The calls.
        now: The time, by the clock of their rows.
    """
    for call in found:
        for generation in call.generations:
            for number in generation.strays:
                row = call.written[ledger.name(call.key, generation.number, "c", number)]
                age = (now - row.at).total_seconds() if now and row.at else 0.0
                yield Stray(call, generation, generation.claims[number], age)


def orphaned(found: list[Call], held: list[Held]) -> Iterator[tuple[Call, str]]:
    """Jobs that are kept for a call which has another one."""
    by_key = {call.key: call for call in found}
    for each in held:
        call = by_key.get(each.key)
        if call and call.generations[-1].claims and all(one.job for one in call.generations):
            named = {one.job.id for one in call.generations if one.job}
            if each.id not in named:
                yield call, each.id


def _calls_in(store: RowStore, written: Mapping[str, Written]) -> list[Call]:
    found = []
    for key, names in ledger.calls(written).items():
        mine = {name: written[name] for name in names}
        generations = ledger.read({name: row.value for name, row in mine.items()})
        found.append(Call(key, store, mine, generations))
    return found


async def _held(rows: Rows) -> list[Held]:
    prefix = ledger.held("")
    direct = await rows.read_all(prefix, string.ascii_lowercase + string.digits)
    written = list(direct.items())
    for pack in await packs_of(rows):
        written += (await pack.read(prefix)).items()
    held = [ledger.parsed(Held, row, each.value) for row, each in written]
    return [each for each in held if not each.guard]
