"""Run models: all at once with `run_model`, or step by step."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from prefect_replicate.api import calls
from prefect_replicate.api.errors import BadInputError
from prefect_replicate.api.references import parse_id, parse_reference
from prefect_replicate.api.resources import File, Job, Prediction
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.blocks.webhook import ReplicateWebhook, hooks_for
from prefect_replicate.jobs.choices import Choices, Store
from prefect_replicate.jobs.targets import Place, resolve, start
from prefect_replicate.jobs.watch import Wait, end_of, outcome, patience, rejoin
from prefect_replicate.tasks.twins import twins

J = TypeVar("J", bound=Job)


async def _run_model(
    ref: str | None = None,
    input: Mapping[str, Any] | None = None,
    *,
    deployment: str | None = None,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
    wait: Wait = "poll",
    webhook: ReplicateWebhook | None = None,
    adopt: str | None = None,
    fresh: bool = False,
    job_key: str | None = None,
    job_store: Store | None = None,
) -> Prediction:
    """Run a model and wait for its output.

    Args:
        ref: "owner/name" (an official model, or the latest version), "owner/name:version" or a
            version id.
        input: The model's input, as its schema has it. Files may stand anywhere in it: paths
            (`pathlib.Path`), bytes, file objects, URLs of any storage that fsspec knows, and what
            `upload_file` and `save_outputs` return. Small ones are sent inline, others uploaded,
            once. A string is never taken for a path.
        deployment: "owner/name" of a deployment to run instead of `ref`.
        credentials: Who pays; the default credentials if None.
        deadline: Seconds after which the prediction is canceled; Replicate is told, so it ends
            even if this process does not live that long.
        wait: "poll", or "webhook" to be told of the end by Replicate, which needs a receiver: see
            `ReplicateWebhook`. It is polled all the same, once a minute.
        webhook: Where the receiver is, if not where the settings say; goes with "webhook".
        adopt: Id of the job that this call has: after a `JobFateUnknown`, or of one that was made
            elsewhere. It must run what is asked for. Nothing is submitted.
        fresh: Instead of a `JobFateUnknown`, another job is made and paid for, at most once in each
            run of the flow. A call whose job is known, or can be found, has that all the same.
        job_key: A name of this call in its flow run, where the default (what is asked, and how many
            asked the same before) is not enough; what it asks must then stay the same.
        job_store: Where the call is written down outside of a flow run, with a `job_key`: any
            mapping that outlives the process, as a shelf or `fsspec.get_mapper(url)`. Of two
            processes that call at once one makes the job if the mapping's `setdefault` is
            exclusive. It is used from another thread.

    Returns:
        The prediction, succeeded. `.output` is the model's output; its files are gone an hour
        later, so pass it to `save_outputs`.

    Raises:
        ModelError: The model failed.
        BadInputError: The reference or the input is wrong; nothing was charged.
        DeadlineExceeded: It took too long and was canceled.
        JobFateUnknown: A create was sent and its answer lost; nothing was submitted again.
        JobKeyError: Something else was asked under this `job_key`; nothing was submitted.
        ReplicateError: See `prefect_replicate.api.errors`.

    Example:
        ```python
        @flow
        def hello():
            return run_model("meta/meta-llama-3-8b-instruct", {"prompt": "Hi"}).text
        ```
    """
    way: Wait = "webhook" if webhook else wait
    client, waiting = await client_for(credentials), patience(deadline, way)
    hook = await hooks_for(webhook, way)
    target = await resolve(client, ref, deployment)
    place = Place(Choices(adopt, fresh, job_key, job_store))
    started = await start(client, target, input or {}, waiting, hook(), place=place)
    return outcome(await end_of(client, started, waiting))


async def _create_prediction(
    ref: str | None = None,
    input: Mapping[str, Any] | None = None,
    *,
    deployment: str | None = None,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
    webhook: ReplicateWebhook | None = None,
    adopt: str | None = None,
    fresh: bool = False,
    job_key: str | None = None,
    job_store: Store | None = None,
) -> Prediction:
    """Start a prediction and return at once; arguments and errors are those of `run_model`.

    Pass what it returns to `wait_for_prediction`, or to `wait_for_webhook` if there is one.
    """
    client, waiting = await client_for(credentials), patience(deadline)
    hook = await hooks_for(webhook)
    target = await resolve(client, ref, deployment)
    place = Place(Choices(adopt, fresh, job_key, job_store))
    return await start(client, target, input or {}, waiting, hook(), place=place)


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
    wait: Wait = "poll",
) -> Prediction:
    """Wait for a prediction, or its id, to succeed.

    Args:
        prediction: From `create_prediction`, or an id.
        credentials: Who may read it; the default credentials if None.
        deadline: Seconds from now after which it is canceled.
        wait: "poll", or "webhook" for one that was created with a webhook.

    Raises:
        ModelError: The model failed.
        JobCanceled: Somebody canceled it.
        OutputsExpired: It ended more than an hour ago.
        DeadlineExceeded: It took too long and was canceled.
    """
    client, waiting = await client_for(credentials), patience(deadline, wait)
    return await rejoin(client, as_job(Prediction, prediction), waiting)


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


def id_of(resource: Job | File | str) -> str:
    """The id of a job or file that is given as itself or by its id.

    Raises:
        BadInputError: It cannot be an id, so it must not become part of a URL.
    """
    return parse_id(resource if isinstance(resource, str) else resource.id)


def as_job(kind: type[J], job: J | str) -> J:
    """A job that is given as itself or by its id, of which then nothing else is known.

    Raises:
        BadInputError: It cannot be an id.
    """
    return kind(id=parse_id(job), status="unknown") if isinstance(job, str) else job


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
