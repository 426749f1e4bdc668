"""Train models: all at once with `train_model`, or step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect_replicate.api import calls
from prefect_replicate.api.calls import Call
from prefect_replicate.api.references import parse_name, parse_version
from prefect_replicate.api.resources import Training
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.jobs.submit import announce, create
from prefect_replicate.jobs.watch import outcome, patience, wait
from prefect_replicate.tasks.predictions import id_of, short, shown_id
from prefect_replicate.tasks.twins import twins


async def _train_model(
    version: str,
    destination: str,
    input: Mapping[str, Any],
    *,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
) -> Training:
    """Fine-tune a version and wait for the version that comes of it.

    Args:
        version: "owner/name:version", the version to start from.
        destination: "owner/name" of an existing model that gets the new version.
        input: The training's input, as the version's schema has it; files as URLs, so pass what
            `upload_file` returns as `.urls.get`.
        credentials: Who pays; the default credentials if None.
        deadline: Seconds after which the training is canceled. Replicate knows no deadline of
            trainings: this process must live to cancel it.

    Returns:
        The training, succeeded. `.trained_version` is the new "owner/name:version".

    Raises:
        ModelError: The training failed.
        BadInputError: A name or the input is wrong; nothing was charged.
        NotFoundError: There is no such version or destination; nothing was charged.
        DeadlineExceeded: It took too long and was canceled.

    Example:
        ```python
        training = train_model(base, "me/mine", {"training_data": file.urls.get})
        run_model(training.trained_version, {"prompt": "Hi"})
        ```
    """
    call, waiting = training_call(version, destination, input), patience(deadline)
    client = await client_for(credentials)
    return outcome(await wait(client, announce(await create(client, call)), waiting))


async def _create_training(
    version: str,
    destination: str,
    input: Mapping[str, Any],
    *,
    credentials: ReplicateCredentials | None = None,
) -> Training:
    """Start a training and return at once; arguments and errors are those of `train_model`.

    Pass what it returns to `wait_for_training`.
    """
    call = training_call(version, destination, input)
    return announce(await create(await client_for(credentials), call))


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
) -> Training:
    """Wait for a training, or its id, to succeed.

    Args:
        training: From `create_training`, or an id.
        credentials: Who may read it; the default credentials if None.
        deadline: Seconds from now after which it is canceled.

    Raises:
        ModelError: The training failed.
        JobCanceled: Somebody canceled it.
        DeadlineExceeded: It took too long and was canceled.
    """
    client, waiting = await client_for(credentials), patience(deadline)
    seen = await client.send(calls.trainings_get(id_of(training)))
    return outcome(await wait(client, seen, waiting))


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


def training_call(version: str, destination: str, input: Mapping[str, Any]) -> Call[Training]:
    """The create of a training.

    Raises:
        BadReferenceError: The version is not "owner/name:version", or the destination no name.
    """
    model, version_id = parse_version(version, "A training starts from one version of a model")
    return calls.trainings_create(
        model,
        version_id,
        destination=parse_name(destination, "destination model"),
        input=input,
    )


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
