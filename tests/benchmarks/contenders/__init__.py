"""Who is measured: one module for each client library, so that no process imports another's."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

TOKEN = "r8_benchmark"
INPUT = {"prompt": "a lighthouse at dusk, oil on canvas"}


class Contender(ABC):
    """A client of the API at a base URL."""

    @abstractmethod
    async def create(self) -> str:
        """Make a prediction and give its id."""

    @abstractmethod
    async def poll(self, prediction: str) -> None:
        """Read a prediction once."""

    @abstractmethod
    async def run(self) -> None:
        """Make a prediction and wait until it has succeeded; anything else is an error."""

    async def hold(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Do all of the work where this contender does it."""
        await work()
