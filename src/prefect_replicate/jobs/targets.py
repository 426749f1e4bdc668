"""What a job runs or trains: resolved once, with the create that it needs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from prefect_replicate.api import calls
from prefect_replicate.api.calls import Call, Hook
from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import BadInputError, BadReferenceError
from prefect_replicate.api.references import (
    Name,
    Reference,
    parse_name,
    parse_reference,
    parse_version,
)
from prefect_replicate.api.resources import Job, Model, Prediction, Training
from prefect_replicate.jobs.inputs import Schema, no_schema, prepare
from prefect_replicate.jobs.latest import look_up
from prefect_replicate.jobs.submit import create
from prefect_replicate.jobs.watch import Patience

J = TypeVar("J", bound=Job)

# What Replicate takes for a Cancel-After, in seconds, and how much later than our deadline it is.
_SHORTEST, _LONGEST = 5, 24 * 3600
_LATER = 15


@dataclass(frozen=True, slots=True)
class Target(Generic[J]):
    """What to run or train: a deployment, an official model, or a version.

    Attributes:
        ref: It, as precisely as it is known.
        make: The create that it needs.
        schema: Gives the version's openapi_schema, where there is one to be had.
        trains: Its jobs are trainings. They know no deadline.
    """

    ref: str
    make: Callable[..., Call[J]]
    schema: Schema = no_schema
    trains: bool = False

    def call(
        self, input: Mapping[str, Any], waiting: Patience, hook: Hook | None = None
    ) -> Call[J]:
        """The create for one input. Replicate ends a prediction itself, should nobody else."""
        if self.trains:
            return self.make(input=input, hook=hook)
        # Later than our own deadline, so that it is we who see it pass and can say so.
        after = min(max(_SHORTEST, math.ceil(waiting.deadline) + _LATER), _LONGEST)
        return self.make(input=input, hook=hook, cancel_after=after)


async def resolve(client: Client, ref: str | None, deployment: str | None) -> Target[Prediction]:
    """Find out what to run.

    Raises:
        BadInputError: Not exactly one of `ref` and `deployment`, or a model without versions.
        NotFoundError: There is no such model.
    """
    if (ref is None) == (deployment is None):
        raise BadInputError("Name either a model or a deployment to run. Nothing was sent.")
    if deployment is not None:
        name = parse_name(deployment, "deployment")
        make = partial(calls.deployments_predictions_create, name)
        return Target(deployment, make, _known_once(partial(_schema_of_release, client, name)))
    reference = parse_reference(ref or "")
    if reference.version or not reference.model:
        make = partial(calls.predictions_create, str(reference))
        return Target(str(reference), make, _version_schema(client, reference))
    return _of_model(reference.model, await look_up(client, reference.model))


def resolve_training(client: Client, version: str, destination: str) -> Target[Training]:
    """Find out what to train, and into what.

    Raises:
        BadReferenceError: The version is not "owner/name:version", or the destination no name.
    """
    model, version_id = parse_version(version, "A training starts from one version of a model")
    into = parse_name(destination, "destination model")
    make = partial(calls.trainings_create, model, version_id, destination=into)
    schema = _version_schema(client, Reference(model, version_id))
    return Target(version, make, schema, trains=True)


async def start(
    client: Client,
    target: Target[J],
    input: Mapping[str, Any],
    waiting: Patience,
    hook: Hook | None = None,
    *,
    shown: bool = True,
) -> J:
    """Create a job of a resolved target, from an input that may hold files.

    Args:
        client: Who pays.
        target: What to run or train.
        input: What it gets.
        waiting: For how long.
        hook: What Replicate tells of it, and where.
        shown: Whether Prefect's UI shows the job by itself.

    Raises:
        BadInputError: The input cannot be sent, or Replicate refuses it.
        ReplicateError: As `create`.
    """
    given = await prepare(
        client, input, target.schema, "TrainingInput" if target.trains else "Input"
    )
    return await create(client, target.call(given, waiting, hook), shown=shown)


def _of_model(name: Name, model: Model) -> Target[Prediction]:
    latest = model.latest_version
    document = latest.openapi_schema if latest else None

    async def schema() -> Mapping[str, Any] | None:
        return document

    if model.is_official:
        return Target(str(name), partial(calls.models_predictions_create, name), schema)
    if not latest:
        raise BadInputError(
            f"Model '{name}' has no versions yet, so there is nothing to run. Train one into it, "
            f"or push one with Cog. Nothing was charged."
        )
    version = f"{name}:{latest.id}"
    return Target(version, partial(calls.predictions_create, version), schema)


def _version_schema(client: Client, reference: Reference) -> Schema:
    """Reads the openapi_schema of a version when it is needed, once.

    A bare version id does not say which model to ask, so it has none.
    """
    if not (reference.model and reference.version):
        return no_schema
    return _known_once(partial(_schema_of_version, client, reference.model, reference.version))


async def _schema_of_version(client: Client, model: Name, version: str) -> dict[str, Any] | None:
    return (await client.send(calls.models_versions_get(model, version))).openapi_schema


async def _schema_of_release(client: Client, deployment: Name) -> Mapping[str, Any] | None:
    release = (await client.send(calls.deployments_get(deployment))).current_release
    try:
        reference = parse_reference(f"{release.model}:{release.version}")
    except BadReferenceError:  # Replicate hides the versions of some models.
        return None
    return await _version_schema(client, reference)()


def _known_once(schema: Schema) -> Schema:
    """The same, asked once however many want to know; what failed is asked again."""
    asking = asyncio.Lock()
    known: list[Mapping[str, Any] | None] = []

    async def remembered() -> Mapping[str, Any] | None:
        async with asking:
            if not known:
                known.append(await schema())
        return known[0]

    return remembered
