"""Rows of a flow run on a real Prefect server: written once, read whole or not at all."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from prefect_replicate.api.errors import LedgerError
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.rows import MOST, Rows

T = TypeVar("T")


@flow
def _nothing() -> None: ...


@pytest.fixture
def run_id(prefect_server: None) -> UUID:
    with get_client(sync_client=True) as client:
        return client.create_flow_run(_nothing).id


def do(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Where rows are read and written: on the engine's loop."""
    return engine().run(work)


def test_a_row_says_what_was_written_and_when_by_the_clock_of_the_server(run_id: UUID) -> None:
    async def both() -> tuple[bool, dict[str, Any], datetime | None]:
        rows = Rows(run_id)
        return await rows.write("pr-x", '{"é": 1}'), await rows.read("pr-"), await rows.now()

    new, found, now = do(both)
    assert new
    assert {name: row.value for name, row in found.items()} == {"pr-x": '{"é": 1}'}
    assert now is not None
    # Whole seconds on one side, a request in between: the same clock all the same.
    assert abs((found["pr-x"].at - now).total_seconds()) < 3
    assert abs((datetime.now(UTC) - now).total_seconds()) < 3


def test_the_second_of_a_name_is_refused_and_the_first_stays(run_id: UUID) -> None:
    async def twice() -> tuple[bool, bool, str]:
        rows = Rows(run_id)
        first, second = await rows.write("pr-x", "1"), await rows.write("pr-x", "2")
        return first, second, (await rows.read("pr-x"))["pr-x"].value

    assert do(twice) == (True, False, "1")


def test_of_many_that_write_one_name_at_once_one_wins(run_id: UUID) -> None:
    async def race() -> tuple[list[bool], str]:
        rows = Rows(run_id)
        won = list(await asyncio.gather(*(rows.write("pr-x", str(n)) for n in range(20))))
        return won, (await rows.read("pr-x"))["pr-x"].value

    won, stored = do(race)
    assert won.count(True) == 1
    assert stored == str(won.index(True))


def test_only_rows_of_that_prefix_and_that_run_are_read(run_id: UUID) -> None:
    with get_client(sync_client=True) as client:
        other = client.create_flow_run(_nothing).id

    async def some() -> set[str]:
        for name in ("pr-k1-job", "pr-k10-job", "pr-k1", "mail-pr-k1-job"):
            await Rows(run_id).write(name, "{}")
        await Rows(other).write("pr-k1-end", "{}")
        return set(await Rows(run_id).read("pr-k1-"))

    assert do(some) == {"pr-k1-job"}


def test_more_rows_than_a_server_gives_are_an_error_and_not_an_answer(run_id: UUID) -> None:
    async def fill(count: int) -> int:
        rows = Rows(run_id)
        gate = asyncio.Semaphore(8)

        async def one(n: int) -> None:
            async with gate:
                await rows.write(f"pr-{n:03}", "{}")

        await asyncio.gather(*(one(n) for n in range(count)))
        return len(await rows.read("pr-"))

    assert do(lambda: fill(MOST - 1)) == MOST - 1
    with pytest.raises(LedgerError, match=rf"{run_id} has 200 ledger rows or more .*'pr-'"):
        do(lambda: fill(MOST + 1))


def test_a_flow_run_that_is_gone_takes_no_rows(prefect_server: None) -> None:
    gone = uuid4()
    with pytest.raises(LedgerError, match=f"Could not write the ledger of flow run {gone}"):
        do(lambda: Rows(gone).write("pr-x", "{}"))


def test_a_server_that_is_away_is_an_error_that_names_the_run(
    prefect_server: None, unused_tcp_port: int
) -> None:
    run_id = uuid4()
    away = {
        PREFECT_API_URL: f"http://127.0.0.1:{unused_tcp_port}/api",
        PREFECT_CLIENT_MAX_RETRIES: 0,
    }

    async def all_three() -> tuple[Any, ...]:
        rows = Rows(run_id)
        asked = rows.read("pr-"), rows.write("pr-x", "{}"), rows.now()
        return tuple(await asyncio.gather(*asked, return_exceptions=True))

    with temporary_settings(away):
        read, written, now = do(all_three)
    assert isinstance(read, LedgerError)
    assert isinstance(written, LedgerError)
    assert f"Could not read the ledger of flow run {run_id}" in str(read)
    assert f"Could not write the ledger of flow run {run_id}" in str(written)
    assert now is None
