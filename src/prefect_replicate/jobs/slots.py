"""Which of the calls that ask the same this one is: each has a place of its own in each attempt.

An attempt is one execution of a flow run with all that it calls in its process, and a place is
taken once in it, by all its processes. What is tried again within it, a task or a flow, takes over
the places that it had, one each; a flow that is run again takes places anew, from the first, and so
meets the jobs of the attempt before.

| row | |
| --- | --- |
| `pr-slot-QUESTION-ATTEMPT-0007` | who took place 7 |
| `pr-again-QUESTION-ATTEMPT-0007-01` | who took it over first, when that one was tried again |
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from prefect.client.schemas.objects import FlowRun

from prefect_replicate.api.errors import LedgerError
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.flow_run import (
    began,
    flow_run_id,
    flow_runs_around,
    parent_of,
    tag,
    task_runs_around,
)
from prefect_replicate.jobs.ledger import FORMAT
from prefect_replicate.jobs.rows import Rows

K = TypeVar("K")
V = TypeVar("V")

_AT_ONCE = 100  # places whose rows are read together; a server gives 200 at most
_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Try:
    """One try of a task run, or of a flow run that another one called."""

    run_id: UUID
    number: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: an attempt of a flow run, and in it tries of other runs, if it is in any.

    Attributes:
        flow_run_id: The outermost flow run: Prefect may give those in it other ids when it is run
            again. One of a deployment is in none, for it is run again by itself.
        attempt: Its attempt.
        run_id: The flow run that calls.
        within: The task runs and flow runs in the outermost one that the call is in.
        runs: How often the outermost one has been run, with this attempt.
    """

    flow_run_id: UUID
    attempt: str
    run_id: UUID
    within: tuple[Try, ...] = ()
    runs: int = 0

    @property
    def rows(self) -> Rows:
        """What is written about the outermost flow run."""
        return Rows(self.flow_run_id)


async def caller() -> Caller | None:
    """Who calls, None outside of a flow run.

    Raises:
        LedgerError: The flow run, or one around it, cannot be read.
    """
    run_id = flow_run_id()
    if run_id is None:
        return None
    try:
        return await _caller(run_id)
    except Exception as error:
        raise LedgerError(
            f"Could not read flow run {run_id}, or who called it, on the Prefect server: "
            f"{error or type(error).__name__}. Nothing was submitted."
        ) from error


async def _caller(run_id: UUID) -> Caller:
    runs = _known()
    here = {run.id for run in runs}
    client = await engine().prefect_client()
    # A process that was given a task of the flow, or a flow in it, does not know what is around.
    if not runs:
        runs.append(await client.read_flow_run(run_id))
    while not _alone(runs[-1]) and (parent := await parent_of(runs[-1])):
        runs.append(await client.read_flow_run(parent))
    root = runs[-1]
    attempt = (root.state_id if root.id in here else None) or await began(root.id)
    if attempt is None:
        raise LookupError("it has not begun")
    return Caller(root.id, attempt.hex, run_id, _within(runs), root.run_count)


def _known() -> list[FlowRun]:
    runs: list[FlowRun] = []
    for run in flow_runs_around():
        if runs and _alone(runs[-1]):
            break
        if not runs or run.id != runs[-1].id:
            runs.append(run)
    return runs


def _alone(run: FlowRun) -> bool:
    """Whether a flow run is run again by itself, and not when the one that called it is."""
    return run.parent_task_run_id is None or run.deployment_id is not None


def _within(runs: list[FlowRun]) -> tuple[Try, ...]:
    ids = {run.id for run in runs}
    tasks = [each.task_run for each in task_runs_around() if each.task_run.flow_run_id in ids]
    # A run may have several contexts.
    tries = {each.id: each.run_count for each in tasks}
    tries |= {each.id: each.run_count for each in runs[:-1]}
    return tuple(Try(*each) for each in tries.items())


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who has a place, and how often it was taken over before."""

    within: tuple[Try, ...]
    nonce: str = ""
    after: int = 0


@dataclass(slots=True)
class _Places:
    """The places of those that ask the same in an attempt, as far as this process knows."""

    holders: dict[int, _Holder] = field(default_factory=dict)
    taking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Slots:
    """The places that this process has taken."""

    def __init__(self) -> None:
        self._places: OrderedDict[tuple[UUID, str, str], _Places] = OrderedDict()
        self._tagged: OrderedDict[UUID, None] = OrderedDict()
        self._tagging = asyncio.Lock()

    def forget(self) -> None:
        """Forget all, in a forked child: nobody would ever release a lock held by the parent."""
        self._places.clear()
        self._tagged.clear()
        self._tagging = asyncio.Lock()

    async def take(self, who: Caller, fingerprint: str) -> int:
        """The place of a call among those of its attempt that ask the same.

        The first one of a flow run tags it, so that it is found.

        Raises:
            LedgerError: It cannot be read or written. Nothing was submitted.
        """
        if who.flow_run_id not in self._tagged:
            async with self._tagging:
                await self._tag(who.flow_run_id)
        asked = (who.flow_run_id, who.attempt, fingerprint)
        places = self._places.setdefault(asked, _Places())
        _trim(self._places)
        async with places.taking:
            return await _Taking(who, f"{fingerprint[:16]}-{who.attempt}", places.holders).place()

    async def _tag(self, run: UUID) -> None:
        if run in self._tagged:
            return
        try:
            await tag(run)
        except Exception as error:
            raise LedgerError(
                f"Could not tag flow run {run} on the Prefect server: "
                f"{error or type(error).__name__}. Nothing was submitted."
            ) from error
        self._tagged[run] = None
        _trim(self._tagged)


def _trim(kept: OrderedDict[K, V]) -> None:
    while len(kept) > _MOST_KNOWN:
        kept.popitem(last=False)


@dataclass(slots=True)
class _Taking:
    """One call that takes a place."""

    who: Caller
    about: str
    holders: dict[int, _Holder]
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))

    async def place(self) -> int:
        """The first that somebody left who was tried again since, or else a new one."""
        place = 0
        while True:
            page = f"pr-slot-{self.about}-{place // _AT_ONCE:02}"
            taken = await self.who.rows.read(page)
            for row, written in sorted(taken.items()):
                number = int(row[-4:])
                self.holders[number] = self.holders.get(number) or _told(row, written.value)
                if await self._is_mine(number):
                    return number
            if len(taken) >= _AT_ONCE:
                place += _AT_ONCE
                continue
            place = place - place % _AT_ONCE + len(taken)
            if await self._write(f"pr-slot-{self.about}-{place:04}"):
                self.holders[place] = self._held(0)
                return place

    async def _is_mine(self, place: int) -> bool:
        """Whether a place is one's own, or can be taken over from somebody who does not go on."""
        holder, within = self.holders[place], self.who.within
        while _outlive(within, holder.within):
            row = f"pr-again-{self.about}-{place:04}-{holder.after + 1:02}"
            if await self._write(row):
                self.holders[place] = self._held(holder.after + 1)
                return True
            told = await self.who.rows.get(row)
            holder = self.holders[place] = _told(row, told or "", holder.after + 1)
        # By its nonce it is one's own though the answer was lost. And a try that was given up, but
        # goes on in its thread, is to make no job of its own.
        return holder.nonce == self.nonce or _outlive(holder.within, within)

    def _held(self, after: int) -> _Holder:
        return _Holder(self.who.within, self.nonce, after)

    async def _write(self, row: str) -> bool:
        within = [[str(each.run_id), each.number] for each in self.who.within]
        value = {"v": FORMAT, "nonce": self.nonce, "within": within}
        return await self.who.rows.write(row, json.dumps(value))


def _outlive(these: tuple[Try, ...], those: tuple[Try, ...]) -> bool:
    """Whether these are in a later try of a run, and those in an earlier one, which is over."""
    tries = {each.run_id: each.number for each in those}
    return any(each.number > tries.get(each.run_id, each.number) for each in these)


def _told(row: str, value: str, after: int = 0) -> _Holder:
    try:
        told = json.loads(value)
        within = tuple(Try(UUID(run), int(number)) for run, number in told["within"])
        return _Holder(within, str(told["nonce"]), after)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise LedgerError(
            f"The ledger row {row!r} is damaged, so it is not known which job this call has. "
            f"Nothing was submitted."
        ) from None


slots = Slots()
os.register_at_fork(after_in_child=slots.forget)
