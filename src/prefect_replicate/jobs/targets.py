"""What a job runs or trains: resolved once, with the create that it needs."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from prefect_replicate.jobs.identity import fingerprint, key_of
from prefect_replicate.jobs.inputs import Schema, no_schema, prepare
from prefect_replicate.jobs.latest import look_up
from prefect_replicate.jobs.ledger import Margins
from prefect_replicate.jobs.orphans import wanted
from prefect_replicate.jobs.settled import Ticket
from prefect_replicate.jobs.slots import caller, slots
from prefect_replicate.jobs.submit import Request, create, obtain
from prefect_replicate.jobs.uploads import digest_at
from prefect_replicate.jobs.watch import Patience
from prefect_replicate.settings import read_settings
from prefect_replicate.webhooks.mailbox import another_mailbox

J = TypeVar("J", bound=Job)

# What Replicate takes for a Cancel-After, in seconds, and how much later than our deadline it is.
_SHORTEST, _LONGEST = 5, 24 * 3600
_LATER = 15
# Jobs are told apart by their lives, in steps that no rounding bridges.
CODES, _STEP = 1200, 3


@dataclass(frozen=True, slots=True)
class Target(Generic[J]):
    """What to run or train: a deployment, an official model, or a version.

    Attributes:
        ref: It, as precisely as it is known.
        asked: It, as the caller named it: what "the latest version" is may change.
        make: The create that it needs.
        schema: Gives the version's openapi_schema, where there is one to be had.
        trains: Its jobs are trainings. They know no deadline.
        deploys: It is a deployment, whose version is not known.
    """

    ref: str
    asked: str
    make: Callable[..., Call[J]]
    schema: Schema = no_schema
    trains: bool = False
    deploys: bool = False

    def call(self, input: Mapping[str, Any], life: int | None, hook: Hook | None = None) -> Call[J]:
        """The create for one input."""
        if life is None:
            return self.make(input=input, hook=hook)
        return self.make(input=input, hook=hook, cancel_after=life)

    def about(self) -> dict[str, str | None]:
        """What is known of its jobs beforehand: model, version, deployment."""
        if self.deploys:
            return {"deployment": self.ref.partition("/")[2]}
        reference = parse_reference(self.ref)
        model = str(reference.model) if reference.model else None
        return {"model": model, "version": reference.version}

    def life(self, waiting: Patience, code: int = 0) -> int | None:
        """Seconds after which Replicate ends a job itself, should nobody else. Trainings have none.

        Args:
            waiting: For how long we wait.
            code: What tells this job from others by its life: a number below `CODES`.
        """
        if self.trains:
            return None
        # Later than our own deadline, so that it is we who see it pass and can say so.
        after = max(_SHORTEST, math.ceil(waiting.deadline) + _LATER)
        return min(after, _LONGEST - CODES * _STEP) + code * _STEP


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
        return Target(
            deployment,
            f"deployment {name}",
            make,
            _known_once(partial(_schema_of_release, client, name)),
            deploys=True,
        )
    reference = parse_reference(ref or "")
    if reference.version or not reference.model:
        make = partial(calls.predictions_create, str(reference))
        asked = str(reference)
        return Target(asked, asked, make, _version_schema(client, reference))
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
    return Target(version, f"{version} into {into}", make, schema, trains=True)


async def start(
    client: Client,
    target: Target[J],
    input: Mapping[str, Any],
    waiting: Patience,
    hook: Hook | None = None,
    *,
    place: Place | None = None,
    shown: bool = True,
) -> J:
    """The one job of a call: as it was made before, or made now, from an input that may hold files.

    Args:
        client: Who pays.
        target: What to run or train.
        input: What it gets.
        waiting: For how long.
        hook: What Replicate tells of it, and where.
        place: Which call it is, if it was made before by the same caller; it is filled in.
        shown: Whether Prefect's UI shows the job by itself.

    Raises:
        BadInputError: The input cannot be sent, or Replicate refuses it.
        ReplicateError: As `create`.
    """
    given = await prepare(
        client, input, target.schema, "TrainingInput" if target.trains else "Input"
    )
    place = Place() if place is None else place
    ticket = await place.ticket(client, target, given)
    if ticket is None:
        return await create(client, target.call(given, target.life(waiting), hook), shown=shown)
    settings = read_settings()
    margins = Margins(
        send=settings.ledger_send,
        answer=settings.ledger_answer,
        accept=settings.ledger_accept,
        list=settings.ledger_list,
    )

    def make(generation: int, number: int) -> tuple[Call[J], int | None]:
        first = generation == number == 1
        own = hook if first or hook is None else replace(hook, url=another_mailbox(hook.url))
        life = target.life(waiting, _code(f"{ticket.key}-{generation}-{number}"))
        return replace(target.call(given, life, own), within=margins.answer), life

    request = Request(
        make,
        wanted=wanted(given, **target.about()),
        trains=target.trains,
        margins=margins,
        look_every=settings.ledger_look,
        patience=waiting.deadline,
        shown=shown,
    )
    return await obtain(client, ticket, request)


def _code(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % CODES


class Place:
    """Which call of its flow run this one is; asked once, however often the call is tried."""

    def __init__(self) -> None:
        self._ticket: Ticket | None = None
        self._asked = False

    async def ticket(
        self, client: Client, target: Target[Any], given: Mapping[str, Any]
    ) -> Ticket | None:
        """Its place in the ledger; None outside of a flow run.

        Raises:
            LedgerError: It cannot be read or written. Nothing was submitted.
        """
        if not self._asked:
            self._ticket = await self._take(client, target, given)
            self._asked = True
        return self._ticket

    async def _take(
        self, client: Client, target: Target[Any], given: Mapping[str, Any]
    ) -> Ticket | None:
        who = await caller()
        if who is None:
            return None
        known = partial(digest_at, client)
        print_ = fingerprint(client.base_url, target.asked, given, known)
        number = await slots.take(who, print_)
        key = key_of(who.flow_run_id, print_, number)
        return Ticket(who.rows, key, print_, who.attempt, str(who.run_id))


def _of_model(name: Name, model: Model) -> Target[Prediction]:
    latest = model.latest_version
    document = latest.openapi_schema if latest else None

    async def schema() -> Mapping[str, Any] | None:
        return document

    if model.is_official:
        make = partial(calls.models_predictions_create, name)
        return Target(str(name), str(name), make, schema)
    if not latest:
        raise BadInputError(
            f"Model '{name}' has no versions yet, so there is nothing to run. Train one into it, "
            f"or push one with Cog. Nothing was charged."
        )
    version = f"{name}:{latest.id}"
    return Target(version, str(name), partial(calls.predictions_create, version), schema)


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
