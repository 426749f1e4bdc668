"""Calls that ask the same have a place each, on a real Prefect server."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client, task
from prefect.client.schemas.objects import FlowRun

from prefect_replicate.api.errors import LedgerError
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.rows import Rows
from prefect_replicate.jobs.slots import Caller, Slots, Try, caller

T = TypeVar("T")
PRINT = "abcdefghijklmnopqrstuvwxyz"
ATTEMPT = uuid4().hex


@flow
def _nothing() -> None: ...


@pytest.fixture
def run(prefect_server: None) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.create_flow_run(_nothing)


def do(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return engine().run(work)


def who(run: FlowRun, task: UUID | None = None, tries: int = 1, attempt: str = ATTEMPT) -> Caller:
    """One that calls from a task of the flow."""
    own = Try(task or uuid4(), tries)
    return Caller(run.id, attempt, own, own)


def within(run: FlowRun, outer: UUID, tries: int = 1, inner_tries: int = 1) -> Caller:
    """One that calls from a task in a task."""
    return Caller(run.id, ATTEMPT, Try(outer, tries), Try(uuid4(), inner_tries))


def in_flow(run: FlowRun, attempt: str = ATTEMPT) -> Caller:
    """One that calls from the flow itself, in no task."""
    return Caller(run.id, attempt)


class SentTwice(Rows):
    """Rows as Prefect's client writes them when the first answer is lost: it sends them again."""

    async def write(self, name: str, value: str) -> bool:
        await Rows.write(self, name, value)
        return await Rows.write(self, name, value)


class Unlucky(Caller):
    @property
    def rows(self) -> Rows:
        return SentTwice(self.flow_run_id)


def take(slots: Slots, *callers: Caller, print_: str = PRINT) -> list[int]:
    async def all_of() -> list[int]:
        return list(await asyncio.gather(*(slots.take(each, print_) for each in callers)))

    return do(all_of)


def test_fifty_equal_calls_at_once_get_fifty_places(run: FlowRun) -> None:
    assert sorted(take(Slots(), *(who(run) for _ in range(50)))) == list(range(50))


def test_equal_calls_of_the_flow_itself_get_a_place_each(run: FlowRun) -> None:
    assert sorted(take(Slots(), *[in_flow(run)] * 10)) == list(range(10))


def test_two_processes_share_the_places_of_an_attempt(run: FlowRun) -> None:
    one, other = Slots(), Slots()

    async def race() -> list[int]:
        calls = [(slots, who(run)) for slots in (one, other) for _ in range(10)]
        return list(await asyncio.gather(*(slots.take(each, PRINT) for slots, each in calls)))

    assert sorted(do(race)) == list(range(20))


def test_other_questions_are_counted_by_themselves(run: FlowRun) -> None:
    slots = Slots()
    assert take(slots, who(run)) == [0]
    assert take(slots, who(run), print_=PRINT[::-1]) == [0]
    assert take(slots, who(run)) == [1]


def test_a_task_that_is_tried_again_finds_its_own_place(run: FlowRun) -> None:
    slots, tasks = Slots(), [uuid4() for _ in range(5)]
    places = take(slots, *(who(run, each) for each in tasks))
    assert take(slots, *(who(run, each, tries=2) for each in tasks)) == places
    # And in a process that was not there the first time.
    assert take(Slots(), *(who(run, each, tries=3) for each in reversed(tasks))) == places[::-1]


def test_a_task_that_asks_the_same_twice_has_two_places_and_finds_both(run: FlowRun) -> None:
    slots, own = Slots(), uuid4()
    take(slots, who(run), who(run))
    places = take(slots, who(run, own), who(run, own))
    assert len(set(places)) == 2
    assert take(slots, who(run)) == [4]
    assert sorted(take(slots, who(run, own, 2), who(run, own, 2))) == sorted(places)


def test_a_task_that_is_tried_again_finds_the_places_of_the_tasks_in_it(run: FlowRun) -> None:
    slots, outer = Slots(), uuid4()
    take(slots, who(run))
    first = take(slots, *(within(run, outer) for _ in range(3)))
    assert sorted(first) == [1, 2, 3]
    assert take(slots, who(run)) == [4]
    # The tasks in it are new ones, with other ids.
    assert sorted(take(slots, *(within(run, outer, tries=2) for _ in range(4)))) == [1, 2, 3, 5]


def test_a_task_in_a_task_that_is_tried_again_finds_its_own_place(run: FlowRun) -> None:
    slots, outer = Slots(), Try(uuid4(), 1)
    inner = [uuid4(), uuid4()]
    first = [Caller(run.id, ATTEMPT, outer, Try(each, 1)) for each in inner]
    again = [Caller(run.id, ATTEMPT, outer, Try(each, 2)) for each in reversed(inner)]
    places = take(slots, *first)
    assert len(set(places)) == 2
    assert take(slots, *again) == places[::-1]


def test_a_place_whose_answer_was_lost_is_ones_own_and_leaves_no_gap(run: FlowRun) -> None:
    slots = Slots()
    callers = [Unlucky(run.id, ATTEMPT) for _ in range(3)]
    assert sorted(take(slots, *callers)) == [0, 1, 2]
    assert take(slots, in_flow(run)) == [3]


def test_a_flow_that_is_run_again_takes_places_anew_from_the_first(run: FlowRun) -> None:
    slots, again = Slots(), uuid4().hex
    assert sorted(take(slots, *(who(run) for _ in range(3)))) == [0, 1, 2]
    calls = [who(run, attempt=again) for _ in range(3)]
    assert sorted(take(slots, *calls)) == [0, 1, 2]
    assert take(slots, in_flow(run, again)) == [3]


def test_two_runs_do_not_share_places(run: FlowRun) -> None:
    with get_client(sync_client=True) as client:
        other = client.create_flow_run(_nothing)
    slots = Slots()
    assert take(slots, who(run)) == take(slots, who(other)) == [0]


@pytest.mark.parametrize("before", [100, 205])
def test_places_go_on_beyond_what_a_server_gives_at_once(run: FlowRun, before: int) -> None:
    mine = uuid4()

    async def fill() -> None:
        gate = asyncio.Semaphore(8)

        async def one(place: int) -> None:
            told = mine if place == before // 2 else uuid4()
            name = f"pr-slot-{PRINT[:16]}-{ATTEMPT}-{place:04}"
            async with gate:
                assert await Rows(run.id).write(name, f'{{"v":1,"task":"{told}","call":0}}')

        await asyncio.gather(*(one(place) for place in range(before)))

    do(fill)
    assert sorted(take(Slots(), *(who(run) for _ in range(3)))) == [before, before + 1, before + 2]
    assert take(Slots(), who(run, mine, tries=2)) == [before // 2]


def test_a_run_that_is_gone_gives_no_places(prefect_server: None) -> None:
    with pytest.raises(LedgerError, match="Could not write the ledger"):
        do(lambda: Slots().take(Caller(uuid4(), ATTEMPT), PRINT))


@pytest.mark.parametrize("value", ["", "7", "null", "{", '"text"'])
def test_a_damaged_place_stops_the_call(run: FlowRun, value: str) -> None:
    row = f"pr-slot-{PRINT[:16]}-{ATTEMPT}-0000"
    do(lambda: Rows(run.id).write(row, value))
    with pytest.raises(LedgerError, match=rf"'{row}' is damaged.*Nothing was submitted"):
        take(Slots(), who(run))


async def _asked() -> Caller | None:
    return await caller()


def test_nobody_calls_outside_of_a_flow_run(prefect_server: None) -> None:
    @task
    def alone() -> Caller | None:
        return engine().run(_asked)

    assert engine().run(_asked) is None
    assert alone() is None


def test_each_run_of_a_flow_is_an_attempt_and_a_try_of_a_task_is_none(prefect_server: None) -> None:
    seen: list[tuple[Caller | None, Caller | None]] = []

    @task(retries=1)
    def inner() -> Caller | None:
        told = engine().run(_asked)
        if told and told.inner and told.inner.number == 1:
            raise ValueError
        return told

    @flow(retries=1)
    def outer() -> None:
        seen.append((engine().run(_asked), inner()))
        if len(seen) == 1:
            raise ValueError

    outer()
    (first, task_of_first), (second, task_of_second) = seen
    assert first
    assert second
    assert task_of_first
    assert task_of_second
    assert first.flow_run_id == second.flow_run_id == task_of_first.flow_run_id
    assert first.attempt == task_of_first.attempt
    assert second.attempt == task_of_second.attempt
    assert first.attempt != second.attempt
    assert first.outer is first.inner is None
    assert task_of_first.inner
    assert task_of_first.inner.number == 2
    assert task_of_first.outer == task_of_first.inner
