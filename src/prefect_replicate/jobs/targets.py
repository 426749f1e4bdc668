"""What a job runs or trains: resolved once, with the create that it needs."""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

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
from prefect_replicate.jobs.choices import Choices
from prefect_replicate.jobs.flow_run import flow_run_id, run_logger
from prefect_replicate.jobs.identity import fingerprint, key_of
from prefect_replicate.jobs.inputs import Schema, no_schema, prepare
from prefect_replicate.jobs.latest import look_up
from prefect_replicate.jobs.orphans import wanted
from prefect_replicate.jobs.settled import Ticket, this_process
from prefect_replicate.jobs.slots import caller, slots
from prefect_replicate.jobs.stores import Stored
from prefect_replicate.jobs.submit import Request, create, obtain
from prefect_replicate.jobs.undo import undo_with_transaction
from prefect_replicate.jobs.uploads import digest_at
from prefect_replicate.jobs.watch import Patience
from prefect_replicate.webhooks.mailbox import another_mailbox

J = TypeVar("J", bound=Job)

# What Replicate takes for a Cancel-After, in seconds, and how much later than our deadline it is.
_SHORTEST, _LONGEST = 5, 24 * 3600
_LATER = 15
# Jobs are told apart by their lives, in steps that no rounding bridges.
CODES, _STEP = 1200, 3
# How far apart the codes of a call's claims and generations are: farther than most have equals.
_BY_CLAIM, _BY_GENERATION = 61, 401
# Digits of a version's id; some models hide theirs.
_WHOLE = 64
# Calls in a store of the caller's are of no flow run.
_NOWHERE = UUID(int=0)


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

    def mismatch(self, job: Job) -> str | None:
        """Why a job cannot be of this, as far as the caller named it; None if it can."""
        if self.deploys:
            ran, wanted = getattr(job, "deployment", None), self.ref
            return None if ran == wanted else f"it ran on {ran or 'none'}, not on {wanted}"
        reference = parse_reference(self.ref if self.trains else self.asked)
        model, version = str(reference.model) if reference.model else None, reference.version
        if version and len(job.version) == _WHOLE:
            # It says it all: two models may have one and the same.
            same = job.version == version
            return None if same else f"it is of version {job.version}, not of {version}"
        if model and job.model and job.model != model:
            return f"it is of {job.model}, and {model} is asked for"
        return None

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
    place = Place() if place is None else place
    place.check()
    given = await prepare(
        client, input, target.schema, "TrainingInput" if target.trains else "Input"
    )
    ticket = await place.ticket(client, target, given)
    if ticket is None:
        _tell_once()
        call = target.call(given, target.life(waiting), hook)
        made = await create(client, call, shown=shown)
        undo_with_transaction(client, made)
        return made

    def make(generation: int, number: int) -> tuple[Call[J], int | None]:
        first = generation == number == 1
        own = hook if first or hook is None else replace(hook, url=another_mailbox(hook.url))
        code = code_of(ticket.root, ticket.fingerprint, ticket.place, generation, number)
        life = target.life(waiting, code)
        return replace(target.call(given, life, own), within=waiting.margins.answer), life

    request = Request(
        make,
        wanted=wanted(given, **target.about()),
        trains=target.trains,
        margins=waiting.margins,
        look_every=waiting.look_for_lost,
        patience=waiting.deadline,
        mismatch=target.mismatch,
        proof=waiting.proof,
        choices=place.choices,
        shown=shown,
    )
    made = await obtain(client, ticket, request)
    undo_with_transaction(client, made)
    return made


def code_of(flow_run: str, fingerprint: str, place: int | str, generation: int, claim: int) -> int:
    """What tells the job of one claim from others by its life, counted from 0 to `CODES`.

    Args:
        flow_run: With the rows of the call.
        fingerprint: What is asked.
        place: Which of the calls that ask the same it is: of 1,200 no two have one code.
        generation: Of the call.
        claim: In it.
    """
    named = place if isinstance(place, str) else ""
    start = hashlib.sha256(f"{flow_run} {fingerprint} {named}".encode()).digest()[:8]
    counted = place if isinstance(place, int) else 0
    steps = counted + (generation - 1) * _BY_GENERATION + (claim - 1) * _BY_CLAIM
    return (int.from_bytes(start) + steps) % CODES


class Place:
    """Which call of its flow run this one is; asked once, however often the call is tried.

    Attributes:
        choices: What the caller says of it, where there is a way to say it.
    """

    def __init__(self, choices: Choices | None = None) -> None:
        self.choices = choices
        self._ticket: Ticket | None = None
        self._asked = False

    def check(self) -> None:
        """See to it that there is sense in what the caller says, before anything is sent.

        Raises:
            BadInputError: There is none.
        """
        if self.choices:
            self.choices.check(in_flow_run=flow_run_id() is not None)

    async def ticket(
        self, client: Client, target: Target[Any], given: Mapping[str, Any]
    ) -> Ticket | None:
        """Its place in the ledger; None outside of a flow run, where the caller has none either.

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
        who, choices = await caller(), self.choices or Choices()
        store = choices.job_store
        known = partial(digest_at, client)
        print_ = fingerprint(client.base_url, target.asked, given, known)
        if store is not None:
            name = choices.job_key or ""
            key = key_of(_NOWHERE, print_, name)
            return Ticket(Stored(store), key, print_, this_process(), place=name)
        if who is None:
            return None
        place = choices.job_key or await slots.take(who, print_)
        key, root = key_of(who.flow_run_id, print_, place), str(who.flow_run_id)
        return Ticket(who.rows, key, print_, who.attempt, str(who.run_id), root, place, who.runs)


_told = threading.Event()


def _tell_once() -> None:
    """Say what outside of a flow run is not promised, once in a process."""
    if _told.is_set():
        return
    _told.set()
    run_logger().info(
        "Outside of a flow run there is no ledger: if this process ends before its answer comes, "
        "the job is not found again, and the same call pays for another. To have one, call it in "
        "a flow, or pass `job_key` and `job_store`."
    )


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
