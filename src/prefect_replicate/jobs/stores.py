"""The ledger in a mapping of the caller's, for calls outside of a flow run."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from fsspec.mapping import FSMap

from prefect_replicate.api.errors import LedgerError
from prefect_replicate.jobs.choices import Store
from prefect_replicate.jobs.rows import Written

T = TypeVar("T")

# A mapping that is kept in a file takes no two at once.
_one_at_a_time = threading.Lock()


def _unlock() -> None:
    """Whoever held it does not live in a forked child."""
    global _one_at_a_time  # noqa: PLW0603 - as above
    _one_at_a_time = threading.Lock()


os.register_at_fork(after_in_child=_unlock)


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows in a mapping: a dict, a shelf, `fsspec.get_mapper(url)`, whatever the caller has.

    It is as good a ledger as the mapping is: of two processes that write one name at once, one wins
    if the mapping's `setdefault` says so, and what a mapping has lost is unknown. It is used from a
    thread of its own, one call after the other. Machines that share it need clocks that differ by a
    few seconds at most.
    """

    mapping: Store

    async def read(self, prefix: str) -> dict[str, Written]:
        """All rows whose names begin so.

        Raises:
            LedgerError: They cannot be read.
        """

        def read() -> dict[str, Written]:
            if isinstance(self.mapping, FSMap):
                self.mapping.fs.invalidate_cache()  # another process may have written
            names = [name for name in self.mapping if name.startswith(prefix)]
            return {name: _parsed(name, self.mapping[name]) for name in names}

        return await self._do("read", read)

    async def get(self, name: str) -> str | None:
        """What one row says, None if there is none of this name.

        Raises:
            LedgerError: It cannot be read.
        """

        def get() -> str | None:
            stored = self.mapping.get(name)
            return None if stored is None else _parsed(name, stored).value

        return await self._do("read", get)

    async def write(self, name: str, value: str) -> bool:
        """Write a row; whether it is new.

        Raises:
            LedgerError: Whether the row is there is not known.
        """
        mapping: Any = self.mapping
        text = json.dumps({"at": datetime.now(UTC).isoformat(), "row": value})
        row = text.encode() if isinstance(mapping, FSMap) else text

        def write() -> bool:
            mapping.setdefault(name, row)
            if callable(sync := getattr(mapping, "sync", None)):  # a shelf may keep it to itself
                sync()
            return _text(mapping[name]) == text

        return await self._do("write", write)

    async def now(self) -> datetime | None:
        """The time by the clock that rows have theirs from: this machine's."""
        return datetime.now(UTC)

    async def _do(self, doing: str, work: Callable[[], T]) -> T:
        def alone() -> T:
            with _one_at_a_time:
                return work()

        try:
            return await asyncio.to_thread(alone)
        except LedgerError:
            raise
        except Exception as error:
            raise LedgerError(
                f"Could not {doing} the ledger in the job_store, a {type(self.mapping).__name__}: "
                f"{type(error).__name__}: {error}. Nothing was submitted that is not written there."
            ) from error


def _text(stored: Any) -> str:
    return stored.decode() if isinstance(stored, bytes) else str(stored)


def _parsed(name: str, stored: Any) -> Written:
    try:
        told = json.loads(_text(stored))
        return Written(str(told["row"]), datetime.fromisoformat(told["at"]))
    except (ValueError, KeyError, TypeError):
        raise LedgerError(
            f"The row {name!r} of the job_store is damaged, so it is not known whether there is a "
            f"job. Nothing was submitted. Look at Replicate's own list for it."
        ) from None
