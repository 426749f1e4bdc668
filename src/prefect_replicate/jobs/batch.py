"""Many predictions at once: each tried again by itself, each with an end of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from prefect_replicate.api.calls import Hook
from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import (
    AuthenticationError,
    BatchError,
    BillingError,
    NotFoundError,
    ReplicateError,
)
from prefect_replicate.api.resources import Prediction
from prefect_replicate.api.retries import transient
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.items import Items
from prefect_replicate.jobs.targets import Target, start
from prefect_replicate.jobs.watch import Patience, end_of, outcome

T = TypeVar("T")

# Seconds before a prediction is tried again, each time longer.
RETRY_DELAYS = (1.0, 5.0, 15.0)
# What is wrong with one create is then wrong with all of them.
_FOR_ALL = (AuthenticationError, BillingError, NotFoundError)
_MOST_TOLD = 5


async def predict(
    client: Client,
    target: Target[Prediction],
    input: Mapping[str, Any],
    waiting: Patience,
    hook: Callable[[], Hook | None] = lambda: None,
    *,
    items: Items,
) -> Prediction:
    """One prediction among many, tried again by itself.

    A retry of the whole task would pay for all the others again.

    Args:
        client: Who pays.
        target: What to run.
        input: What it gets.
        waiting: For how long.
        hook: Makes the webhook of one job.
        items: The batch that it is of.

    Raises:
        ReplicateError: It did not work out; `transient` tells whether it may later.
    """
    place = items.item()

    async def once() -> Prediction:
        started = await start(client, target, input, waiting, hook(), place=place, shown=False)
        return outcome(await end_of(client, started, waiting, label=f"{started.id[:8]}: "))

    return await patiently(once)


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try again what failed for a passing reason, a few times."""
    delays = iter(RETRY_DELAYS)
    while True:
        try:
            return await attempt()
        except ReplicateError as error:
            delay = next(delays, None)
            if delay is None or not transient(error):
                raise
            run_logger().warning("Trying again in %s s: %s", delay, error)
            await asyncio.sleep(delay)


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Every result in order, or the first failure; then the rest is interrupted and cleans up."""
    running = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*running)
    except BaseException:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise


async def run_all(
    inputs: Sequence[Mapping[str, Any]],
    run: Callable[[Mapping[str, Any]], Awaitable[Prediction]],
    at_once: int,
) -> list[Prediction | ReplicateError]:
    """What became of every input, in order. None takes another down with it.

    Once an error shows that no create can work, those that are still to come are not sent.
    """
    free = asyncio.Semaphore(at_once)
    hopeless: list[ReplicateError] = []

    async def one(given: Mapping[str, Any]) -> Prediction | ReplicateError:
        async with free:
            if hopeless:
                return hopeless[0]
            try:
                return await run(given)
            except ReplicateError as error:
                if isinstance(error, _FOR_ALL):
                    hopeless.append(error)
                return error

    return await together(one(given) for given in inputs)


def all_of(ended: Sequence[Prediction | ReplicateError], what: str) -> list[Prediction]:
    """The predictions, if all of them succeeded.

    Raises:
        BatchError: Some did not; it has those that did.
    """
    errors = {at: end for at, end in enumerate(ended) if isinstance(end, ReplicateError)}
    made = [end if isinstance(end, Prediction) else None for end in ended]
    if not errors:
        return [prediction for prediction in made if prediction]
    told = [f"input {at}: {error}" for at, error in list(errors.items())[:_MOST_TOLD]]
    rest = f" And {len(errors) - _MOST_TOLD} more." if len(errors) > _MOST_TOLD else ""
    raise BatchError(
        f"{len(errors)} of {len(ended)} predictions of '{what}' gave no output. {' '.join(told)}"
        f"{rest} The other {len(ended) - len(errors)} succeeded, have been paid for, and are in "
        f"`.predictions`; `.errors` says by place what became of each of these.",
        made,
        errors,
    )
