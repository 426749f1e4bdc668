"""Train models: all at once with `train_model`, or step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect_replicate.api import calls
from prefect_replicate.api.resources import Training
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.blocks.webhook import ReplicateWebhook, hooks_for
from prefect_replicate.jobs.choices import Choices, Store
from prefect_replicate.jobs.targets import Place, resolve_training, start
from prefect_replicate.jobs.watch import Wait, end_of, outcome, patience, rejoin
from prefect_replicate.tasks.predictions import as_job, id_of, short, shown_id
from prefect_replicate.tasks.twins import twins


async def _train_model(
    version: str,
    destination: str,
    input: Mapping[str, Any],
    *,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
    wait: Wait = "poll",
    webhook: ReplicateWebhook | None = None,
    adopt: str | None = None,
    fresh: bool = False,
    job_key: str | None = None,
    job_store: Store | None = None,
) -> Training:
    """Fine-tune a version and wait for the version that comes of it.

    Args:
        version: "owner/name:version", the version to start from.
        destination: "owner/name" of an existing model that gets the new version.
        input: The training's input, as the version's schema has it; files as in `run_model`.
        credentials: Who pays; the default credentials if None.
        deadline: Seconds after which the training is canceled. Replicate knows no deadline of
            trainings: this process must live to cancel it.
        wait: "poll", or "webhook" to be told of the end by Replicate, as in `run_model`.
        webhook: Where the receiver is, if not where the settings say; goes with "webhook".
        adopt: As for `run_model`.
        fresh: As for `run_model`; of a training that then runs twice nothing ends either.
        job_key: As for `run_model`.
        job_store: As for `run_model`.

    Returns:
        The training, succeeded. `.trained_version` is the new "owner/name:version".

    Raises:
        ModelError: The training failed.
        BadInputError: A name or the input is wrong; nothing was charged.
        NotFoundError: There is no such version or destination; nothing was charged.
        DeadlineExceeded: It took too long and was canceled.
        JobFateUnknown: A create was sent and its answer lost; nothing was submitted again.

    Example:
        ```python
        training = train_model(base, "me/mine", {"training_data": Path("data.zip")})
        run_model(training.trained_version, {"prompt": "Hi"})
        ```
    """
    way: Wait = "webhook" if webhook else wait
    client, waiting = await client_for(credentials), patience(deadline, way)
    target = resolve_training(client, version, destination)
    hook = await hooks_for(webhook, way)
    place = Place(Choices(adopt, fresh, job_key, job_store))
    started = await start(client, target, input, waiting, hook(), place=place)
    return outcome(await end_of(client, started, waiting))


async def _create_training(
    version: str,
    destination: str,
    input: Mapping[str, Any],
    *,
    credentials: ReplicateCredentials | None = None,
    webhook: ReplicateWebhook | None = None,
    adopt: str | None = None,
    fresh: bool = False,
    job_key: str | None = None,
    job_store: Store | None = None,
) -> Training:
    """Start a training and return at once; arguments and errors are those of `train_model`.

    Pass what it returns to `wait_for_training`, or to `wait_for_webhook` if there is one.
    """
    client = await client_for(credentials)
    target = resolve_training(client, version, destination)
    hook = await hooks_for(webhook)
    place = Place(Choices(adopt, fresh, job_key, job_store))
    return await start(client, target, input, patience(None), hook(), place=place)


async def _get_training(
    training: Training | str, *, credentials: ReplicateCredentials | None = None
) -> Training:
    """Read a training, or its id, as it stands now, whatever its status.

    Raises:
        NotFoundError: There is none of that id, or the token cannot see it.
    """
    client = await client_for(credentials)
    return await client.send(calls.trainings_get(id_of(training)))


async def _wait_for_training(
    training: Training | str,
    *,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
    wait: Wait = "poll",
) -> Training:
    """Wait for a training, or its id, to succeed.

    Args:
        training: From `create_training`, or an id.
        credentials: Who may read it; the default credentials if None.
        deadline: Seconds from now after which it is canceled.
        wait: "poll", or "webhook" for one that was created with a webhook.

    Raises:
        ModelError: The training failed.
        JobCanceled: Somebody canceled it.
        DeadlineExceeded: It took too long and was canceled.
    """
    client, waiting = await client_for(credentials), patience(deadline, wait)
    return await rejoin(client, as_job(Training, training), waiting)


async def _cancel_training(
    training: Training | str, *, credentials: ReplicateCredentials | None = None
) -> Training:
    """Cancel a training, or its id. One that has ended stays as it is.

    Raises:
        NotFoundError: There is none of that id, or the token cannot see it.
    """
    client = await client_for(credentials)
    return await client.send(calls.trainings_cancel(id_of(training)))


async def _list_trainings(
    *, most: int = 100, credentials: ReplicateCredentials | None = None
) -> list[Training]:
    """List the account's trainings, newest first, at most so many."""
    client = await client_for(credentials)
    return await client.first(calls.trainings_list(), most)


def _what(parameters: Mapping[str, Any]) -> str:
    return f"{short(parameters['version'])} into {parameters['destination']}"


train_model, atrain_model = twins(_train_model, lambda p: f"train {_what(p)}")
create_training, acreate_training = twins(_create_training, lambda p: f"start training {_what(p)}")
get_training, aget_training = twins(
    _get_training, lambda p: f"get training {shown_id(p, 'training')}"
)
wait_for_training, await_for_training = twins(
    _wait_for_training, lambda p: f"wait for training {shown_id(p, 'training')}"
)
cancel_training, acancel_training = twins(
    _cancel_training, lambda p: f"cancel training {shown_id(p, 'training')}"
)
list_trainings, alist_trainings = twins(_list_trainings, lambda _: "list trainings")
