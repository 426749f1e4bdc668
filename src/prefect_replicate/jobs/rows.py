"""Rows of a flow run on the Prefect server: inputs of the run, each written once.

They outlive the process, the worker and the machine, and Prefect refuses a second row of a name,
which makes writing one a claim that only one can win.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient

from prefect_replicate.api.client import told_time
from prefect_replicate.api.errors import LedgerError
from prefect_replicate.jobs.engine import engine

# A server gives no more than that at once, and does not say that it left any out.
MOST = 200
# Characters; no two names are alike for longer.
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Written:
    """A row: what it says, and when the server wrote it, by the server's clock."""

    value: str
    at: datetime | None


class RowStore(Protocol):
    """Where rows are kept. Of two that write one name, one wins."""

    async def read(self, prefix: str) -> dict[str, Written]:
        """All rows whose names begin so.

        Raises:
            LedgerError: They cannot be read.
        """

    async def get(self, name: str) -> str | None:
        """What one row says, None if there is none of this name.

        Raises:
            LedgerError: It cannot be read.
        """

    async def write(self, name: str, value: str) -> bool:
        """Write a row; whether it is new. If not, read it: it may be one's own, answered late.

        Raises:
            LedgerError: Whether the row is there is not known.
        """

    async def now(self) -> datetime | None:
        """The time by the clock that rows have theirs from; None if it cannot be told."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one flow run."""

    flow_run_id: UUID

    async def read(self, prefix: str, without: Collection[str] = ()) -> dict[str, Written]:
        """All rows whose names begin so.

        Args:
            prefix: How they begin.
            without: Names of rows that are known already.

        Raises:
            LedgerError: The server cannot be asked, or there are more than it gives.
        """
        rows = await self._at_most(prefix, without)
        if len(rows) >= MOST:
            raise self._too_many(prefix)
        return rows

    async def read_all(self, prefix: str, letters: str) -> dict[str, Written]:
        """As `read`, however many there are.

        Args:
            prefix: What their names begin with.
            letters: What may come next in those that are meant; where there are too many at once,
                those that go on otherwise are left out.

        Raises:
            LedgerError: The server cannot be asked.
        """
        rows = await self._at_most(prefix)
        if len(rows) < MOST:
            return rows
        if len(prefix) > _LONGEST:
            raise self._too_many(prefix)
        found: dict[str, Written] = {}
        for letter in letters:
            found |= await self.read_all(prefix + letter, letters)
        return found

    async def get(self, name: str) -> str | None:
        """What one row says, None if there is none of this name.

        Raises:
            LedgerError: The server cannot be asked.
        """
        row = (await self.read(name)).get(name)
        return row.value if row else None

    async def write(self, name: str, value: str) -> bool:
        """Write a row; whether it is new. If not, read it: it may be one's own, answered late.

        Raises:
            LedgerError: The server cannot be asked: whether the row is there is not known.
        """
        client = await self._client("write")
        try:
            await client.create_flow_run_input(self.flow_run_id, key=name, value=value)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.CONFLICT:
                return False
            raise self._unreachable("write", error) from error
        except httpx.HTTPError as error:
            raise self._unreachable("write", error) from error
        return True

    async def now(self) -> datetime | None:
        """The server's time, on the same clock as that of its rows; None if it does not say."""
        client = await self._client("ask")
        try:
            return told_time((await client.hello()).headers)
        except httpx.HTTPError:
            return None

    async def _at_most(self, prefix: str, without: Collection[str] = ()) -> dict[str, Written]:
        client = await self._client("read")
        try:
            rows = await client.filter_flow_run_input(
                self.flow_run_id, key_prefix=prefix, limit=MOST, exclude_keys=set(without)
            )
        except (httpx.HTTPError, ValueError) as error:  # the second for a proxy's page
            raise self._unreachable("read", error) from error
        return {row.key: Written(row.value, row.created) for row in rows}

    def _too_many(self, prefix: str) -> LedgerError:
        return LedgerError(
            f"Flow run {self.flow_run_id} has {MOST} ledger rows or more that begin with "
            f"{prefix!r}, more than Prefect gives at once. Nothing was submitted."
        )

    async def _client(self, doing: str) -> PrefectClient:
        try:
            return await engine().prefect_client()
        except Exception as error:
            raise self._unreachable(doing, error) from error

    def _unreachable(self, doing: str, error: Exception) -> LedgerError:
        return LedgerError(
            f"Could not {doing} the ledger of flow run {self.flow_run_id} on the Prefect server: "
            f"{error or type(error).__name__}. Nothing was submitted that is not written there."
        )
