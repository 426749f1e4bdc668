"""Rows of many calls together, in a log: a thousand calls cost tens of requests, not thousands.

A log is a row of inputs of a flow run, `pr-log-KEY-00001` and on, and each entry holds many rows.
Only one writer wins a position, and only one that has read all entries before it asks for it: so
all see the same entries in the same order, and of two entries with one row the earlier counts.

While an entry is on its way, all that is to be written meanwhile waits for the next. What a log
says is kept in memory. It may be older than what others have written; whatever is written brings
it up to date.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from prefect_replicate.api.errors import LedgerError
from prefect_replicate.jobs.clocks import boottime
from prefect_replicate.jobs.ledger import FORMAT, PREFIX, Entry, parsed
from prefect_replicate.jobs.rows import Rows, RowStore, Written
from prefect_replicate.jobs.settled import this_process

# Characters of the rows of an entry; a row that has more has an entry of its own.
MOST_IN_ENTRY = 256 * 1024
_INDEX = f"{PREFIX}batch-"
_DIGITS = 5
# What is read at once has one beginning: at first a hundred entries, later ten.
_AT_FIRST, _LATER = 2, 1
# Seconds for which a first row waits for others, where the last entry held more than one: as long
# as that was on its way, so that a slow server is asked less, and another writer has its turn.
_LINGER_LEAST, _LINGER_MOST = 0.02, 0.25


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A row that is to be written; whether it is new is told by and by."""

    name: str
    value: str
    new: asyncio.Future[bool]

    def tell(self, *, new: bool) -> None:
        if not self.new.done():  # whoever asked may have been interrupted
            self.new.set_result(new)

    def fail(self, error: BaseException) -> None:
        if not self.new.done():
            self.new.set_exception(error)


class Pack:
    """Rows in a log of a flow run. Belongs to the engine's loop; `pack_of` gives it.

    Args:
        rows: Where the log is.
        key: Its own, among the logs of the flow run.
    """

    def __init__(self, rows: Rows, key: str) -> None:
        self.rows = rows
        self.key = key
        self._written: dict[str, Written] = {}
        self._sorted: list[str] = []
        self._families: Counter[str] = Counter()
        self._ranks: dict[str, int] = {}
        self._next = 1
        self._is_loaded = self._is_current = False
        self._reading = asyncio.Lock()
        self._queue: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        self._linger = 0.0
        self._told: datetime | None = None

    async def read(self, prefix: str) -> dict[str, Written]:
        """All rows whose names begin so, as far as they are known here.

        Raises:
            LedgerError: The log cannot be read, is damaged, or was written by a newer version.
        """
        await self._load()
        found: dict[str, Written] = {}
        for at in range(bisect_left(self._sorted, prefix), len(self._sorted)):
            name = self._sorted[at]
            if not name.startswith(prefix):
                break
            found[name] = self._written[name]
        return found

    async def get(self, name: str) -> str | None:
        """What one row says, None if none of this name is known here.

        Raises:
            LedgerError: As `read`.
        """
        await self._load()
        row = self._written.get(name)
        return row.value if row else None

    async def write(self, name: str, value: str) -> bool:
        """Write a row; whether it is new. After that, all that was written before it is known here.

        Raises:
            LedgerError: Whether the row is there is not known.
        """
        await self._load()
        row = _Waiting(name, value, asyncio.get_running_loop().create_future())
        self._queue.append(row)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())
        try:
            return await row.new
        except LedgerError as error:  # one for each who waits, since each adds to its traceback
            raise LedgerError(str(error)) from error

    def rank(self, name: str) -> int:
        """How many rows stand before a row that was written, of names that differ in two numbers.

        These are the last two: before `pr-item-x-3-1` may stand `pr-item-x-2-7`.
        """
        return self._ranks[name]

    async def now(self) -> datetime | None:
        """The time by the clock that rows have theirs from; None if it cannot be told."""
        return await self.rows.now()

    async def refresh(self) -> None:
        """Read what others have written meanwhile.

        Raises:
            LedgerError: As `read`.
        """
        async with self._reading:
            await self._read_on()

    async def _load(self) -> None:
        if self._is_loaded:
            return
        async with self._reading:
            if self._is_loaded:
                return
            await self._read_on()
            if self._next == 1:
                # Before any entry, so that whoever sees a job finds the log that says whose it is.
                await self.rows.write(f"{_INDEX}{self.key}", json.dumps({"v": FORMAT}))
            # Taken before, so that a row that is written here never seems older by a second.
            asked = timedelta(seconds=boottime())
            now = await self.rows.now()
            self._told = now - asked if now else None
            self._is_loaded = True

    async def _write(self) -> None:
        """Write all that waits, as much as there is at once."""
        while self._queue:
            await asyncio.sleep(self._linger)
            rows, began = self._first(), boottime()
            try:
                await self._append(rows)
            except Exception as error:  # noqa: BLE001 - whatever it is, they wait for it
                for row in rows:
                    row.fail(error)
            took = min(max(boottime() - began, _LINGER_LEAST), _LINGER_MOST)
            self._linger = took if len(rows) > 1 else 0.0

    def _first(self) -> list[_Waiting]:
        """Take from the queue what fits into one entry."""
        taken: dict[str, _Waiting] = {}
        left: list[_Waiting] = []
        size = 0
        for row in self._queue:
            if row.new.done():  # interrupted before it was sent
                continue
            size += len(row.name) + len(row.value)
            if taken and (size > MOST_IN_ENTRY or row.name in taken):
                left.append(row)
            else:
                taken[row.name] = row
        self._queue = left
        return list(taken.values())

    async def _append(self, rows: list[_Waiting]) -> None:
        while True:
            async with self._reading:
                # An answer may have been lost: then it is not known yet what stands there.
                if not self._is_current:
                    await self._read_on()
                rows = self._unknown(rows)
                if not rows or await self._is_appended(rows):
                    break
        for row in rows:
            row.tell(new=True)

    def _unknown(self, rows: Iterable[_Waiting]) -> list[_Waiting]:
        """Those of which none is written yet; the others are told."""
        unknown: list[_Waiting] = []
        for row in rows:
            if row.name in self._written:
                row.tell(new=False)
            else:
                unknown.append(row)
        return unknown

    async def _is_appended(self, rows: list[_Waiting]) -> bool:
        entry = Entry(nonce=secrets.token_hex(16), rows={row.name: row.value for row in rows})
        position = self._next
        self._is_current = False
        if await self.rows.write(self._name(position), entry.model_dump_json()):
            told = self._told
            self._fold(entry, told + timedelta(seconds=boottime()) if told else None)
            self._is_current = True
            return True
        # It may be one's own, whose answer was lost.
        return entry.nonce in await self._read_on()

    async def _read_on(self) -> set[str]:
        """Read all entries from the first unknown one; their nonces."""
        width = _AT_FIRST if self._next == 1 else _LATER
        nonces: set[str] = set()
        while True:
            position = self._next
            known = [self._name(n) for n in range(position - position % 10**width, position)]
            page = await self.rows.read(self._name(position)[:-width], without=known)
            for name, written in sorted(page.items()):
                if name != self._name(self._next):
                    raise LedgerError(
                        f"The ledger row {self._name(self._next)!r} is missing, and later ones are "
                        f"there. Nothing was submitted. Look at Replicate's own list for its jobs."
                    )
                entry = parsed(Entry, name, written.value)
                nonces.add(entry.nonce)
                self._fold(entry, written.at)
            if self._next == position or self._next % 10**width:
                self._is_current = True
                return nonces

    def _fold(self, entry: Entry, at: datetime | None) -> None:
        self._next += 1
        for name, value in entry.rows.items():
            if name not in self._written:
                self._written[name] = Written(value, at)
                insort(self._sorted, name)
                family = _family(name)
                self._ranks[name] = self._families[family]
                self._families[family] += 1

    def _name(self, position: int) -> str:
        if position >= 10**_DIGITS:
            raise LedgerError(
                f"The ledger's log {self.key} is full. Nothing was submitted. Run the rest of the "
                f"batches in another flow run."
            )
        return f"{PREFIX}log-{self.key}-{position:0{_DIGITS}}"


def _family(name: str) -> str:
    return name.rsplit("-", 2)[0]


_packs: WeakValueDictionary[tuple[str, Rows, str], Pack] = WeakValueDictionary()


def pack_of(rows: Rows, key: str) -> Pack:
    """A log of a flow run: one and the same for all who use it at once in this process."""
    known = this_process(), rows, key
    pack = _packs.get(known)
    if pack is None:
        _packs[known] = pack = Pack(rows, key)
    return pack


async def packs_of(rows: Rows) -> list[Pack]:
    """All logs of a flow run, with all that is in them by now.

    Raises:
        LedgerError: They cannot be read, or one is damaged or was written by a newer version.
    """
    packs = [pack_of(rows, name.removeprefix(_INDEX)) for name in await rows.read(_INDEX)]
    for pack in packs:
        await pack.refresh()
    return packs


async def stores_of(rows: RowStore) -> list[RowStore]:
    """Everything in which rows of the same flow run are: single ones first, then all logs.

    Raises:
        LedgerError: As `packs_of`.
    """
    if isinstance(rows, Pack):
        packs = await packs_of(rows.rows)
        return [rows.rows, *(rows if pack.key == rows.key else pack for pack in packs)]
    return [rows, *(await packs_of(rows) if isinstance(rows, Rows) else [])]
