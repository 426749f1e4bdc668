"""Run models: all at once with `run_model`, or step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from prefect_replicate.api import calls
from prefect_replicate.api.calls import Call
from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import BadInputError
from prefect_replicate.api.references import parse_name, parse_reference
from prefect_replicate.api.resources import File, Job, Prediction
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.submit import announce, create
from prefect_replicate.jobs.watch import Patience, outcome, patience, wait
from prefect_replicate.tasks.twins import twins

# What Replicate takes for a Cancel-After, in seconds, and how much later than our deadline it is.
_SHORTEST, _LONGEST = 5, 24 * 3600
_LATER = 15


async def _run_model(
    ref: str | None = None,
    input: Mapping[str, Any] | None = None,
    *,
    deployment: str | None = None,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
) -> Prediction:
    """Run a model and wait for its output.

    Args:
        ref: "owner/name" (an official model, or the latest version), "owner/name:version" or a
            version id.
        input: The model's input, as its schema has it.
        deployment: "owner/name" of a deployment to run instead of `ref`.
        credentials: Who pays; the default credentials if None.
        deadline: Seconds after which the prediction is canceled; Replicate is told, so it ends
            even if this process does not live that long.

    Returns:
        The prediction, succeeded. `.output` is the model's output; its files are gone an hour
        later, so pass it to `save_outputs`.

    Raises:
        ModelError: The model failed.
        BadInputError: The reference or the input is wrong; nothing was charged.
        DeadlineExceeded: It took too long and was canceled.
        ReplicateError: See `prefect_replicate.api.errors`.

    Example:
        ```python
        @flow
        def hello():
            return run_model("meta/meta-llama-3-8b-instruct", {"prompt": "Hi"}).text
        ```
    """
    client, waiting = await client_for(credentials), patience(deadline)
    target = await resolve(client, ref, deployment)
    started = announce(await create(client, target.call(input or {}, waiting)))
    return outcome(await wait(client, started, waiting))


async def _create_prediction(
    ref: str | None = None,
    input: Mapping[str, Any] | None = None,
    *,
    deployment: str | None = None,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
) -> Prediction:
    """Start a prediction and return at once; arguments and errors are those of `run_model`.

    Pass what it returns to `wait_for_prediction`.
    """
    client, waiting = await client_for(credentials), patience(deadline)
    target = await resolve(client, ref, deployment)
    return announce(await create(client, target.call(input or {}, waiting)))


async def _get_prediction(
    prediction: Prediction | str, *, credentials: ReplicateCredentials | None = None
) -> Prediction:
    """Read a prediction, or its id, as it stands now, whatever its status.

    Raises:
        NotFoundError: There is none of that id, or the token cannot see it.
    """
    client = await client_for(credentials)
    return await client.send(calls.predictions_get(id_of(prediction)))


async def _wait_for_prediction(
    prediction: Prediction | str,
    *,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
) -> Prediction:
    """Wait for a prediction, or its id, to succeed.

    Args:
        prediction: From `create_prediction`, or an id.
        credentials: Who may read it; the default credentials if None.
        deadline: Seconds from now after which it is canceled.

    Raises:
        ModelError: The model failed.
        JobCanceled: Somebody canceled it.
        OutputsExpired: It ended more than an hour ago.
        DeadlineExceeded: It took too long and was canceled.
    """
    client, waiting = await client_for(credentials), patience(deadline)
    seen = await client.send(calls.predictions_get(id_of(prediction)))
    return outcome(await wait(client, seen, waiting))


async def _cancel_prediction(
    prediction: Prediction | str, *, credentials: ReplicateCredentials | None = None
) -> Prediction:
    """Cancel a prediction, or its id. One that has ended stays as it is.

    Raises:
        NotFoundError: There is none of that id, or the token cannot see it.
    """
    client = await client_for(credentials)
    return await client.send(calls.predictions_cancel(id_of(prediction)))


async def _list_predictions(
    *,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    most: int = 100,
    credentials: ReplicateCredentials | None = None,
) -> list[Prediction]:
    """List the account's predictions, newest first.

    Args:
        created_after: Only those made at this moment or later.
        created_before: Only those made earlier.
        most: How many at most.
        credentials: Whose predictions; the default credentials if None.
    """
    client = await client_for(credentials)
    call = calls.predictions_list(
        created_after=created_after.isoformat() if created_after else None,
        created_before=created_before.isoformat() if created_before else None,
    )
    return await client.first(call, most)


@dataclass(frozen=True, slots=True)
class Target:
    """What to run, resolved once: a deployment, an official model, or a version.

    Attributes:
        ref: It, as precisely as it is known.
        create: The create that it needs.
    """

    ref: str
    create: Callable[..., Call[Prediction]]

    def call(self, input: Mapping[str, Any], waiting: Patience) -> Call[Prediction]:
        """The create for one input. Replicate ends the job itself, should nobody else do it."""
        # Later than our own deadline, so that it is we who see it pass and can say so.
        after = min(max(_SHORTEST, math.ceil(waiting.deadline) + _LATER), _LONGEST)
        return self.create(input, cancel_after=after)


async def resolve(client: Client, ref: str | None, deployment: str | None) -> Target:
    """Find out what a reference means.

    Raises:
        BadInputError: Not exactly one of `ref` and `deployment`, or a model without versions.
        NotFoundError: There is no such model.
    """
    if (ref is None) == (deployment is None):
        raise BadInputError("Name either a model or a deployment to run. Nothing was sent.")
    if deployment is not None:
        name = parse_name(deployment, "deployment")
        return Target(deployment, partial(calls.deployments_predictions_create, name))
    reference = parse_reference(ref or "")
    if reference.version or not reference.model:
        return Target(str(reference), partial(calls.predictions_create, str(reference)))
    model = await client.send(calls.models_get(reference.model))
    if model.is_official:
        official = partial(calls.models_predictions_create, reference.model)
        return Target(str(reference), official)
    if not model.latest_version:
        raise BadInputError(
            f"Model '{reference.model}' has no versions yet, so there is nothing to run. Train one "
            f"into it, or push one with Cog. Nothing was charged."
        )
    run_logger().info("Latest version of %s is %s", reference.model, model.latest_version.id)
    version = f"{reference.model}:{model.latest_version.id}"
    return Target(version, partial(calls.predictions_create, version))


def id_of(resource: Job | File | str) -> str:
    """The id of a job or file that is given as itself or by its id.

    Raises:
        BadInputError: It cannot be an id, so it must not become part of a URL.
    """
    found = resource if isinstance(resource, str) else resource.id
    if not found.isalnum():
        raise BadInputError(
            f"{found!r} is not an id: ids are letters and digits. Nothing was sent."
        )
    return found


def _what(parameters: Mapping[str, Any]) -> str:
    if deployment := parameters["deployment"]:
        return f"deployment {deployment}"
    return short(parameters["ref"])


def short(ref: str) -> str:
    """A reference for people: its version id cut to eight digits; what is none stays as it is."""
    try:
        return parse_reference(ref).short
    except BadInputError:
        return ref


def shown_id(parameters: Mapping[str, Any], key: str) -> str:
    """The id of a job that a task got as itself or by its id, for the name of the task run."""
    job = parameters[key]
    return job if isinstance(job, str) else f"{job.id} of {job.reference}"


run_model, arun_model = twins(_run_model, lambda p: f"run {_what(p)}")
create_prediction, acreate_prediction = twins(_create_prediction, lambda p: f"start {_what(p)}")
get_prediction, aget_prediction = twins(
    _get_prediction, lambda p: f"get prediction {shown_id(p, 'prediction')}"
)
wait_for_prediction, await_for_prediction = twins(
    _wait_for_prediction, lambda p: f"wait for prediction {shown_id(p, 'prediction')}"
)
cancel_prediction, acancel_prediction = twins(
    _cancel_prediction, lambda p: f"cancel prediction {shown_id(p, 'prediction')}"
)
list_predictions, alist_predictions = twins(_list_predictions, lambda _: "list predictions")
