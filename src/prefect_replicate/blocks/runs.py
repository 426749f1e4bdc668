"""Jobs that a block has triggered: wait for them, fetch what they gave, cancel them.

A run holds ids and credentials and no clients, so it pickles; with `from_id` it is found again by
any other process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from prefect.blocks.abstract import JobRun
from pydantic import TypeAdapter, ValidationError
from pydantic.types import JsonValue

from prefect_replicate.api import calls
from prefect_replicate.api.calls import Call
from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import JobError
from prefect_replicate.api.references import parse_id
from prefect_replicate.api.resources import Job, Prediction, Training
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.blocks.webhook import ReplicateWebhook, hooks_for
from prefect_replicate.jobs.choices import Choices, Store
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.targets import Place, Target, start
from prefect_replicate.jobs.watch import Patience, Wait, end_of, outcome, patience, rejoin

J = TypeVar("J", bound=Job)
R = TypeVar("R")


class _Run(JobRun[J]):
    """A prediction or training that exists: what both kinds of runs can do."""

    _kind: ClassVar[type[Job]]

    def __init__(
        self,
        job: J,
        credentials: ReplicateCredentials | None = None,
        deadline: float | None = None,
    ) -> None:
        self._job = job
        self._credentials = credentials
        self._deadline = deadline

    @classmethod
    def from_id(cls, id: str, *, credentials: ReplicateCredentials | None = None) -> Self:
        """A run that this or another process has started, by its id. Nothing is sent.

        Args:
            id: As `run.id` was.
            credentials: Who may read it; the default credentials if None.

        Raises:
            BadInputError: It cannot be an id.
        """
        job: Any = cls._kind(id=parse_id(id), status="unknown")
        return cls(job, credentials)

    @property
    def id(self) -> str:
        """Replicate's id of the job; with `from_id` it is all that another process needs."""
        return self._job.id

    @property
    def job(self) -> J:
        """The job as it was created, or as it ended if that was seen. Nothing is sent."""
        return self._job

    # Prefect's class has coroutines only; here a sync name is sync wherever it is called.
    def wait_for_completion(  # type: ignore[override]
        self, *, deadline: float | None = None, wait: Wait | None = None
    ) -> None:
        """Wait for the job to succeed.

        Args:
            deadline: Seconds from now after which it is canceled; what the block says if None.
            wait: "poll", or "webhook" to be told by Replicate; if None, "webhook" for a job that
                was made with one.

        Raises:
            ModelError: It failed.
            JobCanceled: Somebody canceled it.
            OutputsExpired: It ended more than an hour ago.
            DeadlineExceeded: It took too long and was canceled.
        """
        engine().run(lambda: self._wait(deadline, wait))

    async def await_for_completion(
        self, *, deadline: float | None = None, wait: Wait | None = None
    ) -> None:
        """As `wait_for_completion`."""
        await engine().arun(lambda: self._wait(deadline, wait))

    def fetch_result(self) -> J:  # type: ignore[override] # As above: this name is sync.
        """The job, succeeded. Once its end was seen nothing is sent.

        Raises:
            JobError: It has not ended yet, and goes on.
            ModelError: It failed.
            JobCanceled: It was canceled.
            OutputsExpired: It ended more than an hour ago.
        """
        return engine().run(self._fetch)

    async def afetch_result(self) -> J:
        """As `fetch_result`."""
        return await engine().arun(self._fetch)

    def cancel(self) -> J:
        """Cancel the job, and give it back as it then is. One that has ended stays as it is.

        Raises:
            NotFoundError: There is none of that id, or the token cannot see it.
        """
        return engine().run(self._cancel)

    async def acancel(self) -> J:
        """As `cancel`."""
        return await engine().arun(self._cancel)

    async def _wait(self, deadline: float | None, wait: Wait | None) -> None:
        way: Wait = wait or ("webhook" if self._job.webhook else "poll")
        waiting = patience(self._deadline if deadline is None else deadline, way)
        if self._job.done:
            outcome(self._job)
            return
        try:
            self._keep(await rejoin(await client_for(self._credentials), self._job, waiting))
        except JobError as error:
            self._keep(error.job)
            raise

    async def _fetch(self) -> J:
        job = self._job
        if not job.done:
            client = await client_for(self._credentials)
            job = self._keep(await client.send(self._reading(self.id)))
        if not job.done:
            raise JobError(
                f"{type(job).__name__} {job.id} of '{job.reference}' is '{job.status}': it has no "
                f"result yet, and goes on. Call `wait_for_completion` first.",
                job,
            )
        return outcome(job)

    async def _cancel(self) -> J:
        if self._job.done:
            return self._job
        client = await client_for(self._credentials)
        return self._keep(await client.send(self._canceling(self.id)))

    def _keep(self, job: Any) -> J:
        """Remember a job whose end has been seen: it does not change any more, but is removed."""
        if job is not None and job.done:
            self._job = job
        seen: J = job
        return seen

    def __repr__(self) -> str:
        job = self._job
        return f"{type(self).__name__}({job.id!r}, {job.reference!r}, {job.status!r})"

    @staticmethod
    @abstractmethod
    def _reading(id: str) -> Call[Any]: ...

    @staticmethod
    @abstractmethod
    def _canceling(id: str) -> Call[Any]: ...


class ReplicatePredictionRun(_Run[Prediction]):
    """A prediction that `ReplicateModel` or `ReplicateDeployment` has triggered.

    Example:
        ```python
        run = ReplicateModel(reference="owner/name").trigger({"prompt": "Hi"})
        again = ReplicatePredictionRun.from_id(run.id)  # In any other process.
        again.wait_for_completion()
        print(again.fetch_result().output)
        ```
    """

    _kind = Prediction
    _reading = staticmethod(calls.predictions_get)
    _canceling = staticmethod(calls.predictions_cancel)


class ReplicateTrainingRun(_Run[Training]):
    """A training that `ReplicateTraining` has triggered.

    Example:
        ```python
        run = ReplicateTraining.load("BLOCK_NAME").trigger()
        again = ReplicateTrainingRun.from_id(run.id)  # In any other process.
        again.wait_for_completion(deadline=6 * 3600)
        print(again.fetch_result().trained_version)
        ```
    """

    _kind = Training
    _reading = staticmethod(calls.trainings_get)
    _canceling = staticmethod(calls.trainings_cancel)


class Triggers(ABC, Generic[J, R]):
    """What every block that triggers jobs can do. It is no block, and says what it is made of.

    A block lists its fields itself: their order is that of its form in Prefect's UI.
    """

    if TYPE_CHECKING:  # Pydantic would take them for fields, and put them first.
        input: dict[str, Any]
        credentials: ReplicateCredentials | None
        deadline: float | None
        webhook: ReplicateWebhook | None

    def trigger(
        self,
        input: Mapping[str, Any] | None = None,
        *,
        adopt: str | None = None,
        fresh: bool = False,
        job_key: str | None = None,
        job_store: Store | None = None,
    ) -> R:
        """Start a job and return at once; arguments and errors are those of `run`.

        Returns:
            The run, to wait for, to fetch the result of and to cancel.
        """
        choices = Choices(adopt, fresh, job_key, job_store)
        return engine().run(lambda: self._trigger(input, choices))

    async def atrigger(
        self,
        input: Mapping[str, Any] | None = None,
        *,
        adopt: str | None = None,
        fresh: bool = False,
        job_key: str | None = None,
        job_store: Store | None = None,
    ) -> R:
        """As `trigger`."""
        choices = Choices(adopt, fresh, job_key, job_store)
        return await engine().arun(lambda: self._trigger(input, choices))

    def run(
        self,
        input: Mapping[str, Any] | None = None,
        *,
        adopt: str | None = None,
        fresh: bool = False,
        job_key: str | None = None,
        job_store: Store | None = None,
    ) -> J:
        """Run a job and wait for it to succeed.

        Args:
            input: Merged over the block's. Files may stand anywhere in it, as in `run_model`.
            adopt: As for `run_model`.
            fresh: As for `run_model`.
            job_key: As for `run_model`.
            job_store: As for `run_model`.

        Raises:
            ModelError: The job failed.
            BadInputError: A name or the input is wrong; nothing was charged.
            DeadlineExceeded: It took too long and was canceled.
            ReplicateError: See `prefect_replicate.api.errors`.
        """
        choices = Choices(adopt, fresh, job_key, job_store)
        return engine().run(lambda: self._run(input, choices))

    async def arun(
        self,
        input: Mapping[str, Any] | None = None,
        *,
        adopt: str | None = None,
        fresh: bool = False,
        job_key: str | None = None,
        job_store: Store | None = None,
    ) -> J:
        """As `run`."""
        choices = Choices(adopt, fresh, job_key, job_store)
        return await engine().arun(lambda: self._run(input, choices))

    @abstractmethod
    async def _target(self, client: Client) -> Target[J]:
        """What the block runs or trains."""

    @abstractmethod
    def _as_run(self, job: J) -> R:
        """A job of the block, for who triggered it."""

    async def _trigger(self, input: Mapping[str, Any] | None, choices: Choices) -> R:
        client, waiting = await self._terms()
        return self._as_run(await self._start(client, waiting, input, choices))

    async def _run(self, input: Mapping[str, Any] | None, choices: Choices) -> J:
        client, waiting = await self._terms()
        started = await self._start(client, waiting, input, choices)
        return outcome(await end_of(client, started, waiting))

    async def _terms(self) -> tuple[Client, Patience]:
        waiting = patience(self.deadline, "webhook" if self.webhook else "poll")
        return await client_for(self.credentials), waiting

    async def _start(
        self, client: Client, waiting: Patience, input: Mapping[str, Any] | None, choices: Choices
    ) -> J:
        hook = await hooks_for(self.webhook)
        target = await self._target(client)
        given = {**self.input, **(input or {})}
        return await start(client, target, given, waiting, hook(), place=Place(choices))


_JSON = TypeAdapter(dict[str, JsonValue])


def only_json(input: dict[str, Any]) -> dict[str, Any]:
    """An input that a block can be saved with: saved as JSON, a path would come back as text.

    Raises:
        ValueError: Something in it is not JSON.
    """
    try:
        _JSON.validate_python(input)
    except ValidationError as error:
        where = error.errors()[0]["loc"][0]
        raise ValueError(
            f"A block is saved as JSON, and its input's {where!r} is not. Pass files with a call, "
            f"as in `run({{...}})`, or name them in the block by their URLs."
        ) from None
    return input
