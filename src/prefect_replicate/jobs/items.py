"""Which call each input of a batch is: what it asks, and how many ask the same before it.

A batch takes one place among those that run the same model; each of its items then has a row in
the log that all of these share. The order of the log is one and the same for all who read it: how
many rows of equal items stand before an item's own is its place. So it costs no request of its
own, and an item that stays while others of its batch change keeps its job.

| row in the log | |
| --- | --- |
| `pr-item-QUESTION-ATTEMPT-0003-00007` | the eighth of the equal items of the batch with place 3 |
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prefect_replicate.api.client import Client
from prefect_replicate.jobs.identity import fingerprint, key_of
from prefect_replicate.jobs.ledger import FORMAT, PREFIX
from prefect_replicate.jobs.packs import Pack, pack_of
from prefect_replicate.jobs.settled import Ticket
from prefect_replicate.jobs.slots import Caller, caller, slots
from prefect_replicate.jobs.targets import Place, Target
from prefect_replicate.jobs.uploads import digest_at


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch on the ledger.

    Attributes:
        who: Who calls.
        place: Of the batch, among those of its attempt that run the same.
        pack: The log.
    """

    who: Caller
    place: int
    pack: Pack


@dataclass(slots=True)
class Items:
    """The items of one batch, which runs one target."""

    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _batch: _Batch | None = None
    _asked: bool = False
    _equal: Counter[str] = field(default_factory=Counter)

    def item(self) -> Place:
        """Another one."""
        return _Item(self)

    async def batch(self, client: Client, target: Target[Any]) -> _Batch | None:
        """The batch, None outside of a flow run; asked once for all items.

        Raises:
            LedgerError: The ledger cannot be read or written. Nothing was submitted.
        """
        async with self._asking:
            if not self._asked:
                self._batch = await _enter(client, target)
                self._asked = True
        return self._batch

    def count(self, print_: str) -> int:
        """How many items of the batch were counted before that ask the same."""
        self._equal[print_] += 1
        return self._equal[print_] - 1


async def _enter(client: Client, target: Target[Any]) -> _Batch | None:
    who = await caller()
    if who is None:
        return None
    # Of what is run alone: the inputs of a batch may change in part until it is run again.
    print_ = fingerprint(client.base_url, _asked(target), {}, lambda _: None)
    pack = pack_of(who.rows, key_of(who.flow_run_id, print_, "log"))
    return _Batch(who, await slots.take(who, print_), pack)


def _asked(target: Target[Any]) -> str:
    """What items ask, so that no call that stands in no batch asks the same."""
    return f"batch of {target.asked}"


class _Item(Place):
    """Which call of its flow run an item is."""

    def __init__(self, items: Items) -> None:
        super().__init__()
        self._items = items
        self._equal: tuple[str, int] | None = None

    async def _take(
        self, client: Client, target: Target[Any], given: Mapping[str, Any]
    ) -> Ticket | None:
        batch = await self._items.batch(client, target)
        if batch is None:
            return None
        if self._equal is None:
            known = partial(digest_at, client)
            print_ = fingerprint(client.base_url, _asked(target), given, known)
            self._equal = print_, self._items.count(print_)
        print_, number = self._equal
        who, pack = batch.who, batch.pack
        family = f"{PREFIX}item-{print_[:16]}-{who.attempt}"
        row = f"{family}-{batch.place:04}-{number:05}"
        # It may be there already, if the batch was tried before in this attempt: it has that place.
        await pack.write(row, json.dumps({"v": FORMAT}))
        key, root = key_of(who.flow_run_id, print_, pack.rank(row)), str(who.flow_run_id)
        run = str(who.run_id)
        return Ticket(pack, key, print_, who.attempt, run, root, pack.rank(row), who.runs)
