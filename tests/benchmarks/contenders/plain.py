"""httpx as one would use it by hand, with and without a bound on the requests in flight."""

import asyncio
import contextlib

import httpx

from tests.benchmarks.contenders import INPUT, TOKEN, Contender
from tests.benchmarks.service import VERSION

# What the official client waits between polls.
POLL_EVERY = 0.5


class Plain(Contender):
    """One `httpx.AsyncClient` with patience: its own 5 s would lose most of a large gather."""

    def __init__(self, base_url: str, bound: str) -> None:
        self._free = asyncio.Semaphore(int(bound)) if bound else contextlib.nullcontext()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._http = httpx.AsyncClient(base_url=f"{base_url}/v1", headers=headers, timeout=300)

    async def create(self) -> str:
        async with self._free:
            response = await self._http.post(
                "/predictions", json={"version": VERSION, "input": INPUT}
            )
        return str(response.raise_for_status().json()["id"])

    async def poll(self, prediction: str) -> None:
        await self._status(prediction)

    async def run(self) -> None:
        prediction = await self.create()
        while await self._status(prediction) != "succeeded":
            await asyncio.sleep(POLL_EVERY)

    async def _status(self, prediction: str) -> str:
        async with self._free:
            response = await self._http.get(f"/predictions/{prediction}")
        return str(response.raise_for_status().json()["status"])


def make(base_url: str, how: str) -> Contender:
    """`how` is the bound, or nothing."""
    return Plain(base_url, how)
