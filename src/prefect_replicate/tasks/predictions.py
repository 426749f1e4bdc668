"""Run models: all at once with `run_model`, or step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect_replicate.api import calls
from prefect_replicate.api.calls import Call
from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import BadInputError
from prefect_replicate.api.references import parse_name, parse_reference
from prefect_replicate.api.resources import Job, Prediction
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.submit import announce, create
from prefect_replicate.jobs.watch import outcome, wait
from prefect_replicate.settings import ReplicateSettings
from prefect_replicate.tasks.twins import twins

# What Replicate takes for a Cancel-After.
_SHORTEST, _LONGEST = 5, 24 * 3600


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
    client = await client_for(credentials)
    call = await prediction_call(client, ref, input, deployment, deadline)
    started = announce(await create(client, call))
    return outcome(await wait(client, started, deadline=deadline))


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
    client = await client_for(credentials)
    call = await prediction_call(client, ref, input, deployment, deadline)
    return announce(await create(client, call))


async def _get_prediction(
    prediction: Prediction | str, *, credentials: ReplicateCredentials | None = None
) -> Prediction:
    """Read a prediction, or its id, as it stands now, whatever its status.

    Raises:
        NotFoundError: There is none of that id, or the token cannot see it.
    """
    client = await client_for(credentials)
    return await client.send(calls.predictions_get(job_id(prediction)))


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
    client = await client_for(credentials)
    seen = await client.send(calls.predictions_get(job_id(prediction)))
    return outcome(await wait(client, seen, deadline=deadline))


async def _cancel_prediction(
    prediction: Prediction | str, *, credentials: ReplicateCredentials | None = None
) -> Prediction:
    """Cancel a prediction, or its id. One that has ended stays as it is.

    Raises:
        NotFoundError: There is none of that id, or the token cannot see it.
    """
    client = await client_for(credentials)
    return await client.send(calls.predictions_cancel(job_id(prediction)))


async def prediction_call(
    client: Client,
    ref: str | None,
    input: Mapping[str, Any] | None,
    deployment: str | None,
    deadline: float | None,
) -> Call[Prediction]:
    """The create that a reference needs: of a deployment, an official model, or a version.

    Raises:
        BadInputError: Not exactly one of `ref` and `deployment`, or a model without versions.
        NotFoundError: There is no such model.
    """
    if (ref is None) == (deployment is None):
        raise BadInputError("Name either a model or a deployment to run. Nothing was sent.")
    inputs = {} if input is None else input
    limit = ReplicateSettings().deadline if deadline is None else deadline
    after = min(max(_SHORTEST, round(limit)), _LONGEST)
    if deployment is not None:
        name = parse_name(deployment, "deployment")
        return calls.deployments_predictions_create(name, inputs, cancel_after=after)
    reference = parse_reference(ref or "")
    if reference.version or not reference.model:
        return calls.predictions_create(str(reference), inputs, cancel_after=after)
    model = await client.send(calls.models_get(reference.model))
    if model.is_official:
        return calls.models_predictions_create(reference.model, inputs, cancel_after=after)
    if not model.latest_version:
        raise BadInputError(
            f"Model '{reference.model}' has no versions yet, so there is nothing to run. Train one "
            f"into it, or push one with Cog. Nothing was charged."
        )
    run_logger().info("Latest version of %s is %s", reference.model, model.latest_version.id)
    version = f"{reference.model}:{model.latest_version.id}"
    return calls.predictions_create(version, inputs, cancel_after=after)


def job_id(job: Job | str) -> str:
    """The id of a job that is given as itself or by its id.

    Raises:
        BadInputError: It cannot be an id, so it must not become part of a URL.
    """
    found = job if isinstance(job, str) else job.id
    if not found.isalnum():
        raise BadInputError(
            f"{found!r} is not the id of a job: ids are letters and digits. Nothing was sent."
        )
    return found


def _what(parameters: Mapping[str, Any]) -> str:
    if deployment := parameters["deployment"]:
        return f"deployment {deployment}"
    return short(str(parameters["ref"]))


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
