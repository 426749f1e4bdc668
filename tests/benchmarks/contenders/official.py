"""Replicate's own Python client, as its README says to use it from async code."""

from replicate.client import Client

from tests.benchmarks.contenders import INPUT, TOKEN, Contender
from tests.benchmarks.service import VERSION


class Official(Contender):
    """`replicate.Client` with its defaults."""

    def __init__(self, base_url: str) -> None:
        self._client = Client(api_token=TOKEN, base_url=base_url)

    async def create(self) -> str:
        return (await self._client.predictions.async_create(version=VERSION, input=INPUT)).id

    async def poll(self, prediction: str) -> None:
        await self._client.predictions.async_get(prediction)

    async def run(self) -> None:
        prediction = await self._client.predictions.async_create(version=VERSION, input=INPUT)
        await prediction.async_wait()
        assert prediction.status == "succeeded"


def make(base_url: str, _how: str) -> Contender:
    """There is one way to use it."""
    return Official(base_url)
