"""Run a model on many inputs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect_replicate.api.errors import BadInputError
from prefect_replicate.api.resources import Prediction
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.blocks.webhook import ReplicateWebhook, hooks_for
from prefect_replicate.jobs.announce import announce_batch
from prefect_replicate.jobs.batch import all_of, predict, run_all
from prefect_replicate.jobs.items import Items
from prefect_replicate.jobs.targets import resolve
from prefect_replicate.jobs.watch import Wait, patience
from prefect_replicate.tasks.predictions import short
from prefect_replicate.tasks.twins import twins


async def _run_batch(
    ref: str | None,
    inputs: Sequence[Mapping[str, Any]],
    *,
    deployment: str | None = None,
    credentials: ReplicateCredentials | None = None,
    at_once: int = 1000,
    deadline: float | None = None,
    wait: Wait = "poll",
    webhook: ReplicateWebhook | None = None,
) -> list[Prediction]:
    """Run a model on many inputs at once, and wait for all outputs.

    The version is looked up once for all. Each prediction is tried again by itself after passing
    troubles; a retry of the task is not, since it would pay for all of them again.

    Args:
        ref: As for `run_model`; None where there is a deployment.
        inputs: One for each prediction, as for `run_model`.
        deployment: As for `run_model`.
        credentials: Who pays; the default credentials if None.
        at_once: Predictions that run at the same time, 1 or more.
        deadline: Seconds after which a prediction is canceled, counted from its own beginning.
        wait: As for `run_model`.
        webhook: As for `run_model`.

    Returns:
        The predictions, all succeeded, in the order of the inputs.

    Raises:
        BatchError: Some gave no output. Its `.predictions` are those that did, and its `.errors`
            say what became of the others.
        ReplicateError: Nothing was begun: the reference is wrong, or no inputs were given.

    Example:
        ```python
        try:
            poems = run_batch("me/poet", [{"prompt": topic} for topic in topics])
        except BatchError as error:
            poems = [poem for poem in error.predictions if poem]
        ```
    """
    if not inputs or at_once < 1:
        raise BadInputError(
            f"A batch has 1 input or more and runs 1 at once or more, not {len(inputs)} and "
            f"{at_once}. Nothing was sent."
        )
    way: Wait = "webhook" if webhook else wait
    client, waiting = await client_for(credentials), patience(deadline, way)
    hook = await hooks_for(webhook, way)
    target = await resolve(client, ref, deployment)
    items = Items()
    ended = await run_all(
        inputs, lambda given: predict(client, target, given, waiting, hook, items=items), at_once
    )
    await announce_batch(target.ref, ended)
    return all_of(ended, target.ref)


def _what(parameters: Mapping[str, Any]) -> str:
    what = parameters["deployment"] or short(parameters["ref"])
    return f"run {what} on {len(parameters['inputs'])} inputs"


run_batch, arun_batch = twins(_run_batch, _what)
