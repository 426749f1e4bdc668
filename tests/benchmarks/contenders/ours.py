"""prefect-replicate, over either transport, without Prefect's task machinery and with it."""

import math
from collections.abc import Awaitable, Callable
from typing import Any, cast

from prefect import flow

from prefect_replicate import ReplicateCredentials, arun_model
from prefect_replicate.api import calls
from prefect_replicate.api.client import Client
from prefect_replicate.api.limits import Budget, Budgets
from prefect_replicate.api.transports import Transport
from prefect_replicate.jobs.engine import engine
from tests.benchmarks.contenders import INPUT, TOKEN, Contender
from tests.benchmarks.service import VERSION


class Ours(Contender):
    """`arun_model` without its task run; creates and polls by the client itself."""

    def __init__(self, base_url: str, transport: Transport) -> None:
        self.credentials = ReplicateCredentials(api_token=TOKEN, base_url=base_url)
        self._transport = transport
        self._client = self._open()
        # The engine's own, which keeps to Replicate's limits and would be measured by them.
        engine()._clients[self.credentials.access] = self._open()

    def _open(self) -> Client:
        budgets = Budgets(Budget(math.inf), Budget(math.inf))
        return Client(self.credentials.access, transport=self._transport, budgets=budgets)

    async def create(self) -> str:
        return (await self._client.send(calls.predictions_create(VERSION, INPUT))).id

    async def poll(self, prediction: str) -> None:
        await self._client.send(calls.predictions_get(prediction))

    async def run(self) -> None:
        await arun_model.fn(VERSION, INPUT, credentials=self.credentials)


class InFlow(Ours):
    """The whole thing: task runs of a flow run, on a Prefect server."""

    async def run(self) -> None:
        await arun_model(VERSION, INPUT, credentials=self.credentials)

    async def hold(self, work: Callable[[], Awaitable[Any]]) -> None:
        await flow(name="benchmark")(work)()


def make(base_url: str, how: str) -> Contender:
    """`how` is a transport, or "flow"."""
    if how == "flow":
        return InFlow(base_url, "httpx")
    return Ours(base_url, cast("Transport", how))
