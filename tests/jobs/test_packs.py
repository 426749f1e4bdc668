"""Rows in a log: on a real Prefect server, and walks through what may go wrong between writers."""

import asyncio
import json
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow, get_client

from prefect_replicate.api.errors import LedgerError
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.ledger import Entry
from prefect_replicate.jobs.packs import MOST_IN_ENTRY, Pack, pack_of, packs_of
from prefect_replicate.jobs.rows import Rows, Written

T = TypeVar("T")
KEY = "k" * 26


@flow
def _nothing() -> None: ...


@pytest.fixture
def rows(prefect_server: None) -> Rows:
    with get_client(sync_client=True) as client:
        return Rows(client.create_flow_run(_nothing).id)


def do(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Where rows are read and written: on the engine's loop."""
    return engine().run(work)


async def entries(rows: Rows) -> dict[str, Written]:
    found: dict[str, Written] = {}
    for page in range(10):
        found |= await rows.read(f"pr-log-{KEY}-00{page}")
    return found


async def values(pack: Pack) -> dict[str, str]:
    return {name: row.value for name, row in (await pack.read("")).items()}


def test_a_thousand_rows_at_once_are_a_few_entries_and_say_what_was_written(rows: Rows) -> None:
    meant = {f"pr-{number:04}": json.dumps({"é": number}) for number in range(1000)}

    async def go() -> tuple[list[bool], int, dict[str, str], dict[str, str]]:
        pack = Pack(rows, KEY)
        new = await asyncio.gather(*(pack.write(*row) for row in meant.items()))
        count = len(await entries(rows))
        return list(new), count, await values(pack), await values(Pack(rows, KEY))

    new, count, here, there = do(go)
    assert all(new)
    assert count <= 3
    assert here == there == meant


def test_rows_are_read_by_how_their_names_begin(rows: Rows) -> None:
    async def go() -> tuple[set[str], str | None, str | None]:
        pack = Pack(rows, KEY)
        names = ("pr-k1-job", "pr-k10-job", "pr-k1", "pr-k1-end", "pr-k")
        await asyncio.gather(*(pack.write(name, f'"{name}"') for name in names))
        return set(await pack.read("pr-k1-")), await pack.get("pr-k1"), await pack.get("pr-k2")

    assert do(go) == ({"pr-k1-job", "pr-k1-end"}, '"pr-k1"', None)


def test_rows_say_when_they_were_written_by_the_clock_of_the_server(rows: Rows) -> None:
    async def go() -> list[datetime | None]:
        here, there = Pack(rows, KEY), Pack(rows, KEY)
        await here.write("pr-x", "1")
        told = [(await pack.read("pr-x"))["pr-x"].at for pack in (here, there)]
        return [*told, await here.now()]

    mine, theirs, now = do(go)
    assert mine
    assert theirs
    assert now
    assert abs((mine - theirs).total_seconds()) < 3
    assert abs((now - mine).total_seconds()) < 3


def test_of_two_writers_one_wins_each_row_and_both_see_the_same(rows: Rows) -> None:
    names = [f"pr-{number:02}" for number in range(40)]

    async def write(pack: Pack, who: str, order: list[str]) -> dict[str, bool]:
        told: dict[str, bool] = {}
        for at in range(0, len(order), 5):
            some = order[at : at + 5]
            new = await asyncio.gather(*(pack.write(name, who) for name in some))
            told |= dict(zip(some, new, strict=True))
        return told

    async def go() -> tuple[Any, ...]:
        packs = Pack(rows, KEY), Pack(rows, KEY)
        await packs[0].read("")
        assert await packs[1].write("pr-before", "two")
        told = await asyncio.gather(
            write(packs[0], "one", [*names, "pr-before"]), write(packs[1], "two", names[::-1])
        )
        for pack in packs:
            await pack.refresh()
        return *told, *[await values(pack) for pack in (*packs, Pack(rows, KEY))]

    first, second, *seen = do(go)
    assert all(first[name] != second[name] for name in names)
    assert seen[0] == seen[1] == seen[2]
    assert seen[0] == {name: "one" if first[name] else "two" for name in first}
    assert not first["pr-before"]


def test_who_has_written_knows_all_that_was_written_before(rows: Rows) -> None:
    async def go() -> tuple[str | None, str | None]:
        here, there = Pack(rows, KEY), Pack(rows, KEY)
        await here.write("pr-begun", "1")
        assert await there.write("pr-k-g01-job", "none")
        before = await here.get("pr-k-g01-job")
        assert await here.write("pr-k-g01-c01", "claim")
        return before, await here.get("pr-k-g01-job")

    assert do(go) == (None, "none")


def test_a_log_of_hundreds_of_entries_is_read_whole_and_written_on(rows: Rows) -> None:
    async def go() -> tuple[int, dict[str, str], bool]:
        late = Pack(rows, KEY)
        await late.read("")
        gate = asyncio.Semaphore(8)

        async def append(number: int) -> None:
            entry = Entry(nonce=uuid4().hex, rows={f"pr-{number:04}": str(number)})
            async with gate:
                await rows.write(f"pr-log-{KEY}-{number:05}", entry.model_dump_json())

        await asyncio.gather(*(append(number) for number in range(1, 261)))
        new = await Pack(rows, KEY).write("pr-last", "261")
        taken = await late.write("pr-0260", "other")
        assert (await values(late)) == (await values(Pack(rows, KEY)))
        return len(await entries(rows)), await values(late), new and not taken

    count, seen, written = do(go)
    assert count == 261
    assert seen == {f"pr-{n:04}": str(n) for n in range(1, 261)} | {"pr-last": "261"}
    assert written


def test_large_rows_are_not_put_into_one_entry(rows: Rows) -> None:
    large = "x" * (MOST_IN_ENTRY // 3)

    async def go() -> list[int]:
        pack = Pack(rows, KEY)
        await asyncio.gather(*(pack.write(f"pr-{number}", large) for number in range(9)))
        await pack.write("pr-huge", large * 4)
        assert await values(Pack(rows, KEY)) == await values(pack)
        return [len(entry.value) for entry in (await entries(rows)).values()]

    sizes = do(go)
    assert max(sizes[:-1]) < MOST_IN_ENTRY * 1.1
    assert 5 <= len(sizes) <= 10


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("{", "'pr-log-k+-00001' is damaged"),
        ('{"v": 1, "nonce": "x", "rows": {"pr-x": 7}}', "'pr-log-k+-00001' is damaged"),
        ('{"v": 99, "nonce": "x", "rows": {}}', "written by a newer prefect-replicate"),
    ],
)
def test_an_entry_that_cannot_be_read_is_an_error_and_not_an_answer(
    rows: Rows, value: str, error: str
) -> None:
    do(lambda: rows.write(f"pr-log-{KEY}-00001", value))
    for ask in (lambda: Pack(rows, KEY).read("pr-"), lambda: Pack(rows, KEY).write("pr-x", "1")):
        with pytest.raises(LedgerError, match=error):
            do(ask)


def test_an_entry_that_is_missing_is_an_error_and_not_the_end(rows: Rows) -> None:
    entry = Entry(nonce="x", rows={"pr-x": "1"}).model_dump_json()
    do(lambda: rows.write(f"pr-log-{KEY}-00002", entry))
    with pytest.raises(LedgerError, match=r"-00001' is missing"):
        do(lambda: Pack(rows, KEY).read("pr-"))


@dataclass(frozen=True, slots=True)
class SentTwice(Rows):
    """Rows as Prefect's client writes them when the first answer is lost: it sends them again."""

    async def write(self, name: str, value: str) -> bool:
        await Rows.write(self, name, value)
        return await Rows.write(self, name, value)


def test_a_writer_knows_its_own_entry_though_it_is_refused(rows: Rows) -> None:
    async def go() -> list[bool]:
        pack = Pack(SentTwice(rows.flow_run_id), KEY)
        return [await pack.write("pr-x", "1"), await pack.write("pr-x", "1")]

    assert do(go) == [True, False]


@dataclass(frozen=True, slots=True)
class Unanswered(Rows):
    """Rows of which the first entries are written, or not, and nobody hears of it."""

    written: bool = True
    left: list[int] = field(default_factory=lambda: [1])

    async def write(self, name: str, value: str) -> bool:
        if "-log-" not in name or not self.left:
            return await Rows.write(self, name, value)
        self.left.pop()
        if self.written:
            await Rows.write(self, name, value)
        raise LedgerError("Nobody knows.")


@pytest.mark.parametrize("written", [True, False])
def test_all_whose_entry_got_no_answer_are_told_and_can_write_again(
    rows: Rows, written: bool
) -> None:
    async def go() -> tuple[list[Any], list[bool], dict[str, str]]:
        pack = Pack(Unanswered(rows.flow_run_id, written), KEY)
        await pack.read("")  # so that both are in one entry
        meant = {"pr-x": "1", "pr-y": "2"}.items()
        first = await asyncio.gather(*(pack.write(*row) for row in meant), return_exceptions=True)
        second = [await pack.write(*row) for row in meant]
        return first, second, await values(Pack(rows, KEY))

    first, second, seen = do(go)
    assert [str(error) for error in first] == ["Nobody knows."] * 2
    assert first[0] is not first[1]
    assert second == [not written] * 2
    assert seen == {"pr-x": "1", "pr-y": "2"}


def test_what_an_interrupted_caller_wanted_to_write_is_not_written(rows: Rows) -> None:
    async def go() -> dict[str, str]:
        pack = Pack(rows, KEY)
        await pack.write("pr-begun", "1")
        first = asyncio.create_task(pack.write("pr-first", "1"))
        await asyncio.sleep(0)
        second = asyncio.create_task(pack.write("pr-second", "2"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([first, second])
        await pack.write("pr-last", "3")
        return await values(Pack(rows, KEY))

    assert set(do(go)) == {"pr-begun", "pr-first", "pr-last"}


def test_who_knows_only_the_flow_run_finds_its_logs_and_writes_into_them(rows: Rows) -> None:
    async def go() -> tuple[list[str], dict[str, str], bool, str | None]:
        logs = [Pack(rows, letter * 26) for letter in "ab"]
        for pack in logs:
            await pack.write(f"pr-{pack.key}-g01-c01", pack.key)
        found = sorted(await packs_of(Rows(rows.flow_run_id)), key=lambda pack: pack.key)
        stone = f"pr-{logs[0].key}-g01-job"
        assert await found[0].write(stone, "none")
        late = await logs[0].write(stone, "late")
        return [pack.key for pack in found], await values(found[1]), late, await logs[0].get(stone)

    keys, second, late, stone = do(go)
    assert keys == ["a" * 26, "b" * 26]
    assert second == {f"pr-{'b' * 26}-g01-c01": "b" * 26}
    assert (late, stone) == (False, "none")


def test_logs_that_are_found_again_are_up_to_date(rows: Rows) -> None:
    async def go() -> bool:
        (await Pack(rows, KEY).write("pr-x", "1"))
        (known,) = await packs_of(rows)
        await Pack(rows, KEY).write("pr-y", "2")
        assert (await packs_of(rows))[0] is known is pack_of(rows, KEY)
        return "pr-y" in await values(known)

    assert do(go)


def test_the_order_of_a_log_is_the_same_for_all(rows: Rows) -> None:
    names = [f"pr-item-x-{batch}-{number}" for number in range(10) for batch in (1, 2)]

    async def go() -> list[list[int]]:
        packs = Pack(rows, KEY), Pack(rows, KEY)
        await asyncio.gather(*(packs[at % 2].write(name, "1") for at, name in enumerate(names)))
        await packs[0].write("pr-item-y-1-0", "1")
        for pack in packs:
            await pack.refresh()
        assert packs[1].rank("pr-item-y-1-0") == 0
        return [[pack.rank(name) for name in names] for pack in packs]

    first, second = do(go)
    assert first == second
    assert sorted(first) == list(range(20))


@dataclass
class Server:
    """Keeps rows in memory, and lets go wrong what it is told to."""

    faults: list[int]
    rows: dict[str, Written] = field(default_factory=dict)
    late: list[tuple[str, str]] = field(default_factory=list)

    def put(self, name: str, value: str) -> bool:
        new = name not in self.rows
        self.rows.setdefault(name, Written(value, datetime.now(UTC)))
        return new

    def fault(self) -> int:
        return self.faults.pop() if self.faults else 0


@dataclass(frozen=True, slots=True)
class Faulty(Rows):
    """Rows of a server in memory. Each request takes some turns of the loop there and back."""

    server: Server

    async def read(self, prefix: str, without: Collection[str] = ()) -> dict[str, Written]:
        fault = await self._on_its_way()
        if fault % 8 == 7:
            raise LedgerError("away")
        held = self.server.rows.items()
        found = {name: row for name, row in held if name.startswith(prefix) and name not in without}
        await self._on_its_way()
        return found

    async def write(self, name: str, value: str) -> bool:
        fault = (await self._on_its_way()) % 8
        if fault == 7:
            raise LedgerError("not sent")
        if fault == 6:
            self.server.late.append((name, value))
            raise LedgerError("written later, if at all")
        new = self.server.put(name, value)
        await self._on_its_way()
        if fault == 5:
            raise LedgerError("written, not answered")
        return self.server.put(name, value) if fault == 4 else new

    async def now(self) -> datetime | None:
        return None

    async def _on_its_way(self) -> int:
        fault = self.server.fault()
        for _ in range(fault // 8 % 4):
            await asyncio.sleep(0)
        if fault // 32 % 2 and self.server.late:
            self.server.put(*self.server.late.pop())
        return fault


@settings(derandomize=True, database=None, max_examples=150, deadline=None)
@given(
    faults=st.lists(st.integers(0, 63), max_size=80),
    asked=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=25
    ),
)
def test_whatever_goes_wrong_each_row_has_one_writer_and_all_see_the_same(
    faults: list[int], asked: list[tuple[int, int, int]]
) -> None:
    server = Server(faults)
    told: dict[str, list[tuple[str, bool | None, str | None]]] = {}

    async def one(pack: Pack, number: int, at: int, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        name, value = f"pr-{number}", f"value {at}"
        try:
            new: bool | None = await pack.write(name, value)
        except LedgerError:
            told.setdefault(name, []).append((value, None, None))
        else:
            told.setdefault(name, []).append((value, new, await pack.get(name)))

    async def go() -> list[dict[str, str]]:
        rows = Faulty(uuid4(), server)
        packs = [Pack(rows, KEY) for _ in range(3)]
        await asyncio.gather(
            *(one(packs[who], number, at, turns) for at, (who, number, turns) in enumerate(asked))
        )
        server.faults.clear()
        for late in server.late:
            server.put(*late)
        for pack in packs:
            await pack.refresh()
        return [await values(pack) for pack in (*packs, Pack(rows, KEY))]

    seen = asyncio.run(go())
    assert all(each == seen[0] for each in seen)
    for name, answers in told.items():
        _check(answers, seen[0].get(name))


def _check(answers: list[tuple[str, bool | None, str | None]], stored: str | None) -> None:
    """What those who wrote one row were told, and read then, against what is there in the end."""
    winners = [value for value, new, _ in answers if new]
    assert winners in ([], [stored])
    # Who heard anything heard the truth; who did not hear may have won.
    assert {read for _, new, read in answers if new is not None} <= {stored}
    if any(new is not None for _, new, _ in answers):
        assert stored is not None
    assert stored in {None, *(value for value, _, _ in answers)}
