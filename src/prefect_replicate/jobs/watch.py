"""Wait for a job to end: by polls or by mail, until a deadline; and cancel what nobody wants.

Mail is what a webhook left in the flow run's mailbox. It only says when to look: the job itself is
the truth, and it is polled now and then all the same, since a webhook may be lost.

A failed poll says nothing about the job. Any number of them in a row is tolerated, and only the
deadline ends the wait: giving up earlier would leave a paid job running unseen.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args
from uuid import UUID

from prefect_replicate.api import calls
from prefect_replicate.api.calls import Call
from prefect_replicate.api.client import Client, see_through
from prefect_replicate.api.errors import (
    APIError,
    BadInputError,
    DeadlineExceeded,
    JobAborted,
    JobCanceled,
    ModelError,
    OutputsExpired,
    RateLimitError,
    ReplicateError,
    TransportError,
)
from prefect_replicate.api.resources import Job, Status, Training
from prefect_replicate.api.retries import transient
from prefect_replicate.jobs.engine import engine, terminated
from prefect_replicate.jobs.flow_run import being_canceled, flow_run_id, run_logger
from prefect_replicate.jobs.latest import forget
from prefect_replicate.jobs.ledger import Margins
from prefect_replicate.jobs.settled import settle
from prefect_replicate.settings import read_settings
from prefect_replicate.webhooks.mailbox import Address, address_of, read

J = TypeVar("J", bound=Job)
T = TypeVar("T")

# An interrupted process has little time; Prefect kills it 30 s after asking it to end.
CANCEL_WITHIN = 10.0
# Prefect's client tries long and often; the job's own clock goes on meanwhile.
LOOK_WITHIN = 10.0


def poll_delay(age: float, first: float, last: float) -> float:
    """Seconds until the next poll of a job that has been watched for `age` seconds.

    A tenth of its age: a job is seen to end at most 10% late, and 25 jobs of a minute or more stay
    far below Replicate's 3,000 requests a minute.
    """
    return min(max(first, age / 10), last)


def fresh_lines(logs: str, seen: int, *, final: bool) -> tuple[list[str], int]:
    """Log lines that are complete and not reported yet, and how many characters those end at.

    Args:
        logs: The whole log, as Replicate gives it with every answer.
        seen: How many of its characters were reported before.
        final: The log is at its end, so a last line without a line break is complete too.
    """
    start = seen if seen <= len(logs) else 0  # Shorter than before: it was rewritten.
    end = len(logs) if final else logs.rfind("\n") + 1
    if end <= start:
        return [], start
    return [line for line in logs[start:end].splitlines() if line.strip()], end


def outcome(job: J) -> J:
    """Give back a job that succeeded; raise what became of any other.

    Raises:
        ModelError: It failed.
        JobCanceled: It was canceled.
        JobAborted: Its deadline passed before it started.
        OutputsExpired: It succeeded, but Replicate has removed the output.
    """
    what = f"{type(job).__name__} {job.id} of '{job.reference}'"
    where = f" See {job.urls.web}." if job.urls.web else ""
    match job.status:
        case Status.SUCCEEDED if not job.data_removed:
            return job
        case Status.SUCCEEDED:
            raise OutputsExpired(
                f"{what} succeeded, but Replicate has removed its output, as it does an hour after "
                f"the end. It has been paid for; run it again to have it, and save the outputs.",
                job,
            )
        case Status.FAILED:
            reason = (job.error or "").strip() or "the platform gave no reason"
            raise ModelError(
                f"{what} failed: {reason}{'' if reason[-1] in '.!?' else '.'}{where}", job
            )
        case Status.ABORTED:
            raise JobAborted(
                f"{what} was aborted: its deadline passed before it started. Public models charge "
                f"nothing for that. Give it a later deadline, or hardware with a shorter queue."
                f"{where}",
                job,
            )
    raise JobCanceled(
        f"{what} was canceled; it is charged for the time that it ran.{where}",
        job,
    )


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a job and how often to look, in seconds. Read before a job is made.

    Attributes:
        poll_told: Between polls of a job that a webhook tells of; None to wait by polls alone.
        margins: How long each part of a create may take.
        look_for_lost: Between looks for a job whose create got no answer.
        proof: Only what proves whose such a job is counts.
    """

    deadline: float
    poll_first: float
    poll_last: float
    look_every: float
    poll_told: float | None = None
    margins: Margins = field(default_factory=Margins)
    look_for_lost: float = 3.0
    proof: bool = False


Wait: TypeAlias = Literal["poll", "webhook"]


def patience(deadline: float | None, wait: Wait = "poll") -> Patience:
    """What the settings say, with the caller's deadline if there is one.

    Raises:
        BadInputError: The deadline is not a number of seconds above 0, or the way to wait is none.
        ConfigurationError: A setting has no sense.
    """
    if wait not in get_args(Wait):
        raise BadInputError(f"`wait` is 'poll' or 'webhook', not {wait!r}. Nothing was sent.")
    settings = read_settings()
    seconds = settings.deadline if deadline is None else deadline
    if not 0 < seconds < math.inf:
        raise BadInputError(f"A deadline is seconds above 0, not {seconds}. Nothing was sent.")
    return Patience(
        seconds,
        settings.poll_first,
        settings.poll_last,
        settings.look_every,
        settings.webhook_poll if wait == "webhook" else None,
        Margins(
            send=settings.ledger_send,
            answer=settings.ledger_answer,
            accept=settings.ledger_accept,
            list=settings.ledger_list,
        ),
        settings.ledger_look,
        settings.ledger_orphans == "token",
    )


async def rejoin(client: Client, job: J, patience: Patience) -> J:
    """Wait for a job that exists already, and give it back if it succeeded.

    Args:
        client: Who may read it.
        job: Of it only the kind, the id and the webhook count; the rest is read anew.
        patience: How long to wait, from now.

    Raises:
        NotFoundError: There is none of that id.
        ReplicateError: As `end_of` and `outcome`.
    """
    seen: J = await client.send(reading(job))
    if seen.webhook is None and job.webhook:
        seen = seen.model_copy(update={"webhook": job.webhook})
    return outcome(await end_of(client, seen, patience))


async def end_of(client: Client, job: J, patience: Patience, *, label: str = "") -> J:
    """Wait until a job has ended, and give it back as it ended, whatever that was.

    Args:
        client: Who may read it.
        job: As it was created or last seen.
        patience: How long to wait, and how.
        label: Stands before each line of its log, where several jobs log to one run.

    Raises:
        DeadlineExceeded: The deadline passed; the job was canceled.
        JobCanceled: Its flow run is being canceled, so the job was too.
        ReplicateError: The job cannot be read; the message says that it goes on.
    """
    watch = Watch(client, job, patience, label=label)
    try:
        while not watch.job.done:
            await watch.turn()
    except asyncio.CancelledError:
        await see_through(abandon(client, watch.job, interrupted=True))
        raise
    await write_end(watch.job)
    if isinstance(watch.job, Training) and watch.job.trained_version:
        forget(client, watch.job.trained_version.partition(":")[0])
    return cast("J", watch.job)


async def write_end(job: Job) -> None:
    """Write down how a job ended, and whether another one may do better, for later attempts."""
    try:
        outcome(job)
    except ReplicateError as error:
        await settle(job, retryable=transient(error))
    else:
        await settle(job, retryable=False)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """What became of a job that nobody wants: as it is now, and in words."""

    job: Job
    fate: str


async def abandon(
    client: Client, job: Job, *, interrupted: bool = False, undone: bool = False
) -> Abandoned:
    """Cancel a job that nobody wants, and say what became of it. Never raises an API error.

    A job of a flow run whose process was asked to end, and that is not being canceled itself, is
    wanted: by the next attempt of the flow run, which finds it.

    Args:
        client: Who may cancel it.
        job: It.
        interrupted: Its caller was. Should that be tried again, by a task that timed out, then it
            wants a job again.
        undone: As if it had never been asked for: whoever asks again wants a job again.
    """
    what = f"{type(job).__name__} {job.id}"
    if interrupted and await _left_behind():
        fate = f"{what} is left running for the next attempt of its flow run"
        run_logger().warning("The process was asked to end (SIGTERM). %s.", fate)
        return Abandoned(job, fate)
    try:
        async with asyncio.timeout(CANCEL_WITHIN):
            job = await client.send(_cancel(job))
    except (ReplicateError, TimeoutError) as error:
        why = str(error) or "no answer"
        where = job.urls.web or job.urls.cancel or job.id
        fate = f"{what} could not be canceled and may run on and cost money: {where} ({why})"
        run_logger().error(fate)
        return Abandoned(job, fate)
    await settle(job, retryable=interrupted or undone)
    ended = "had ended before it could be canceled" if job.status in _PAID else "was canceled"
    fate = f"{what} {ended}; it is charged for the time that it ran"
    run_logger().info(fate)
    return Abandoned(job, fate)


_asking: dict[UUID, asyncio.Future[bool]] = {}


async def _left_behind() -> bool:
    """Whether the call ends with its process, as on a drained node, while its flow run goes on."""
    run = flow_run_id() if terminated() else None
    if run is None:
        return False
    # All calls of a flow run are interrupted at the same moment.
    if run not in _asking:
        _asking[run] = asyncio.ensure_future(left_behind_by(run))
        _asking[run].add_done_callback(lambda _: _asking.pop(run))
    return await asyncio.shield(_asking[run])


async def left_behind_by(run: UUID) -> bool:
    """Whether a flow run whose process was asked to end is not being canceled, and may come back.

    Where Prefect does not answer it is taken to come back: the job ends by its own deadline.
    """
    return not await _answered(being_canceled(run), "the flow run's state")


_PAID = frozenset({Status.SUCCEEDED, Status.FAILED})


@dataclass(slots=True)
class Watch:
    """One wait: the job as last seen, and the clocks it goes by.

    Attributes:
        job: As last seen.
        since: When polling began, on the monotonic clock; polls get rarer from there.
        label: Stands before each line of its log.
        mailbox: Where a webhook tells of the job's end, if we wait for one.
    """

    client: Client
    job: Job
    patience: Patience
    label: str = ""
    since: float = field(default_factory=time.monotonic)
    started: float = field(default_factory=time.monotonic)
    looked: float = field(default_factory=time.monotonic)
    seen: float = field(default_factory=time.monotonic)
    mailbox: Address | None = None
    logged: int = 0
    strange: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._report()
        if self.patience.poll_told is None or self.job.done:
            return
        self.mailbox = address_of(self.job.webhook or "")
        if self.mailbox is None:
            run_logger().warning(
                "Job %s was not created with a webhook of ours; polling it instead", self.job.id
            )

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.started + self.patience.deadline - time.monotonic()

    async def turn(self) -> None:
        """Let some time pass, then see what has become of the job.

        Raises:
            DeadlineExceeded: The deadline has passed; the job was canceled.
            JobCanceled: Its flow run is being canceled, so the job was too.
            ReplicateError: The job cannot be read; the message says that it goes on.
        """
        age = time.monotonic() - self.since
        delay = poll_delay(age, self.patience.poll_first, self.patience.poll_last)
        await asyncio.sleep(max(0.0, min(delay, self.left)))
        if self.mailbox is None or self._due() or await self._has_mail(self.mailbox):
            await self.see()
        await self.heed()

    async def see(self) -> None:
        """Read the job once; a failure that may pass is tolerated."""
        self.seen = time.monotonic()
        # A poll that hangs must not outlive the deadline by much.
        with suppress(TimeoutError):
            async with asyncio.timeout(max(1.0, self.left)):
                await self._poll()

    async def heed(self) -> None:
        """Heed the deadline, and now and then whether the flow run still wants the job."""
        await self._look()
        if not self.job.done and self.left <= 0:
            self.job = await self._exceeded()

    def _due(self) -> bool:
        """Whether to poll all the same, since a webhook may be lost."""
        return time.monotonic() - self.seen >= (self.patience.poll_told or 0.0)

    async def _has_mail(self, mailbox: Address) -> bool:
        async def look() -> bool:
            prefect = await engine().prefect_client()
            return await read(prefect, mailbox, self.job.id) is not None

        return bool(await _answered(look(), "the mailbox"))

    async def _poll(self) -> None:
        try:
            self.job = await self.client.send(reading(self.job))
        except (TransportError, RateLimitError) as error:
            run_logger().warning("The job goes on, but could not be read: %s", error)
            return
        except APIError as error:
            where = self.job.urls.web or self.job.id
            message = f"{error} The job itself may still be running and cost money: {where}"
            raise type(error)(message, status=error.status, body=error.body) from error
        self._report()

    def _report(self) -> None:
        lines, self.logged = fresh_lines(self.job.logs, self.logged, final=self.job.done)
        for line in lines:
            run_logger().info("%s%s", self.label, line)
        status = self.job.status
        if status not in set(Status) | self.strange:
            self.strange.add(status)
            run_logger().warning(
                "Job %s has the unknown status %r; waiting on", self.job.id, status
            )

    async def _look(self) -> None:
        run = flow_run_id()
        now = time.monotonic()
        if self.job.done or run is None or now - self.looked < self.patience.look_every:
            return
        self.looked = now
        if await _answered(_shared_look(run, self.patience.look_every), "the flow run's state"):
            left = await abandon(self.client, self.job)
            raise JobCanceled(f"The flow run is being canceled. {left.fate}.", left.job)

    async def _exceeded(self) -> Job:
        before = self.job
        left = await abandon(self.client, before)
        if left.job.status == Status.SUCCEEDED:
            return left.job
        raise DeadlineExceeded(
            f"{type(before).__name__} {before.id} of '{before.reference}' was '{before.status}' "
            f"when its deadline of {self.patience.deadline:g} s passed. {left.fate}.",
            left.job,
        )


_looks: OrderedDict[UUID, tuple[float, asyncio.Future[bool]]] = OrderedDict()
_MOST_LOOKS = 1000


async def _shared_look(run: UUID, every: float) -> bool:
    """Whether a flow run is being canceled. Its jobs that are waited for here look together.

    What another one has seen counts for half the time between two looks, so that a cancel is seen
    at most half as much later again.
    """
    now = time.monotonic()
    if run not in _looks or now - _looks[run][0] >= every / 2:
        _looks[run] = now, asyncio.ensure_future(being_canceled(run))
        _looks.move_to_end(run)
        while len(_looks) > _MOST_LOOKS:
            _looks.popitem(last=False)
    return await asyncio.shield(_looks[run][1])


async def _answered(look: Awaitable[T], what: str) -> T | None:
    """A Prefect server that does not answer says nothing about the job: keep waiting."""
    try:
        async with asyncio.timeout(LOOK_WITHIN):
            return await look
    except Exception as error:  # noqa: BLE001 - whatever Prefect's client raises, the job matters more
        run_logger().warning("Could not read %s: %s", what, error)
        return None


def reading(job: Job) -> Call[Any]:
    """The call that reads a job."""
    by_id: Callable[[str], Call[Any]] = (
        calls.trainings_get if isinstance(job, Training) else calls.predictions_get
    )
    return by_id(job.id)


def _cancel(job: Job) -> Call[Any]:
    by_id: Callable[[str], Call[Any]] = (
        calls.trainings_cancel if isinstance(job, Training) else calls.predictions_cancel
    )
    return by_id(job.id)
