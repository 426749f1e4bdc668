"""Which of the calls that ask the same this one is: each has a place of its own in each attempt.

An attempt is one execution of the flow run, and a place is taken once in it, by all its processes.
A task that is run again finds the place that it had; a flow that is run again takes places anew,
from the first, and so meets the jobs of the attempt before.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext

from prefect_replicate.api.errors import LedgerError
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.ledger import FORMAT
from prefect_replicate.jobs.rows import Rows
from prefect_replicate.jobs.settled import this_process

_AT_ONCE = 100  # places whose rows are read together; a server gives 200 at most
_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Try:
    """One try of a task run."""

    task_run_id: UUID
    number: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: an attempt of a flow run, and in it tries of task runs, if it is in any.

    Attributes:
        outer: The task run that stands in none. Those inside it are new ones when it is retried.
        inner: The task run that calls.
    """

    flow_run_id: UUID
    attempt: str
    outer: Try | None = None
    inner: Try | None = None

    @property
    def rows(self) -> Rows:
        """What is written about the flow run."""
        return Rows(self.flow_run_id)


async def caller() -> Caller | None:
    """Who calls, None outside of a flow run.

    Raises:
        LedgerError: The flow run cannot be read.
    """
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    run_id = task.task_run.flow_run_id if task else None
    if run_id is None and flow and flow.flow_run:
        run_id = flow.flow_run.id
    if run_id is None:
        return None
    if flow and flow.flow_run and flow.flow_run.id == run_id and flow.flow_run.state_id:
        attempt = flow.flow_run.state_id
    else:
        attempt = await _attempt(run_id)
    outer, inner = _try(_outermost(task)), _try(task)
    return Caller(run_id, attempt.hex, outer, inner)


def _try(task: TaskRunContext | None) -> Try | None:
    return Try(task.task_run.id, task.task_run.run_count) if task else None


def _outermost(task: TaskRunContext | None) -> TaskRunContext | None:
    """The task run around all others. Prefect tells an inner one its parent's id and no more.

    Each context knows which one it took the place of; a test notices should that change.
    """
    while task and (around := _around(task)):
        task = around
    return task


def _around(task: TaskRunContext) -> TaskRunContext | None:
    around = getattr(getattr(task, "_token", None), "old_value", None)
    if not isinstance(around, TaskRunContext):
        return None
    return around if around.task_run.flow_run_id == task.task_run.flow_run_id else None


async def _attempt(run_id: UUID) -> UUID:
    """The attempt that runs now, for a task in a process that knows nothing of its flow."""
    try:
        client = await engine().prefect_client()
        state_id = (await client.read_flow_run(run_id)).state_id
    except Exception as error:
        raise LedgerError(
            f"Could not read flow run {run_id} on the Prefect server: {error}. "
            f"Nothing was submitted."
        ) from error
    if state_id is None:
        raise LedgerError(f"Flow run {run_id} has no state. Nothing was submitted.")
    return state_id


class Slots:
    """The places that this process has taken."""

    def __init__(self) -> None:
        self._calls: OrderedDict[tuple[Caller, str], int] = OrderedDict()
        self._numbers: OrderedDict[Any, dict[tuple[UUID | None, int], int]] = OrderedDict()
        self._taking: OrderedDict[tuple[UUID, str], asyncio.Lock] = OrderedDict()

    async def take(self, who: Caller, fingerprint: str) -> int:
        """The place of a call among those of its attempt that ask the same.

        Raises:
            LedgerError: It cannot be read or written. Nothing was submitted.
        """
        number = self._number(who, fingerprint)
        taking = self._taking.setdefault((who.flow_run_id, fingerprint), asyncio.Lock())
        for kept in (self._calls, self._numbers, self._taking):
            while len(kept) > _MOST_KNOWN:
                kept.popitem(last=False)
        outer = who.outer
        mine: dict[str, object] = {
            "task": str(outer.task_run_id) if outer else None,
            "try": outer.number if outer else 0,
            "call": number,
            "process": this_process(),
        }
        async with taking:
            return await _take(who, f"pr-slot-{fingerprint[:16]}-{who.attempt}-", mine)

    def _number(self, who: Caller, fingerprint: str) -> int:
        """Which of the equal calls of the outermost task run this is.

        The same again when that is retried, and when the one that calls is retried in it.
        """
        counted = (who, fingerprint)
        call = self._calls.pop(counted, 0)
        self._calls[counted] = call + 1
        around = (who.flow_run_id, who.attempt, who.outer, fingerprint)
        numbers = self._numbers.setdefault(around, {})
        return numbers.setdefault(
            (who.inner.task_run_id if who.inner else None, call), len(numbers)
        )


async def _take(who: Caller, prefix: str, mine: dict[str, object]) -> int:
    place, nonce = 0, secrets.token_hex(16)
    while True:
        taken = await who.rows.read(f"{prefix}{place // _AT_ONCE:02}")
        for row, written in taken.items():
            told = _told(row, written.value)
            # By its nonce it is one's own though the answer was lost.
            if told.get("nonce") == nonce or (who.outer and _is_again(told, mine)):
                return int(row.removeprefix(prefix))
        if len(taken) >= _AT_ONCE:
            place += _AT_ONCE
            continue
        place = place - place % _AT_ONCE + len(taken)
        value = json.dumps({"v": FORMAT, "nonce": nonce, **mine})
        if await who.rows.write(f"{prefix}{place:04}", value):
            return place


def _is_again(told: Mapping[str, object], mine: Mapping[str, object]) -> bool:
    """Whether a place was taken when the task was run before, and not by a process beside this."""
    same = (told.get("task"), told.get("call")) == (mine["task"], mine["call"])
    return same and (told.get("process") == mine["process"] or told.get("try") != mine["try"])


def _told(row: str, value: str) -> dict[str, object]:
    try:
        return dict(json.loads(value))
    except (ValueError, TypeError):
        raise LedgerError(
            f"The ledger row {row!r} is damaged, so it is not known which job this call has. "
            f"Nothing was submitted."
        ) from None


slots = Slots()
