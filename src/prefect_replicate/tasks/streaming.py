"""Stream a model's text: a generator task in two kinds, `stream_model` and `astream_model`.

Prefect runs a generator task as long as its consumer reads. Left to itself it calls one that is
left early "rolled back" (a sync one), or fails in closing it (an async one), and its consumer finds
itself inside the task's run. So each is read in a context of its own, and ends by itself when its
consumer has left.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import aclosing, closing
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

import anyio
from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.stream import TextStream, text_of
from prefect_replicate.jobs.targets import resolve, start
from prefect_replicate.jobs.watch import end_of, outcome, patience
from prefect_replicate.tasks.predictions import short
from prefect_replicate.tasks.twins import RunName, as_task, retry_transient, twins

P = ParamSpec("P")
T = TypeVar("T")

# Streams that failed and may be tried again, by task run; more than any process has at once.
_MOST_KEPT = 1000
_kept: dict[UUID, TextStream] = {}


async def _stream_model(
    ref: str | None = None,
    input: Mapping[str, Any] | None = None,
    *,
    deployment: str | None = None,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
) -> AsyncGenerator[str, None]:
    """Run a model and give its text piece by piece, as the model writes it.

    Together the pieces are the `.text` of the prediction. Models that cannot stream give theirs
    when they are done; files come as their URLs. Lost connections are made up for, and with
    `with_options(retries=3)` no piece comes twice and nothing is paid twice: what fails after its
    first piece is not run again. Whoever stops reading, by `break` or otherwise, cancels the
    prediction.

    Read it where it is called. Submitted or mapped there is nobody to read along, so the future
    has all pieces at once, as a list.

    Args:
        ref: As for `run_model`.
        input: As for `run_model`.
        deployment: As for `run_model`.
        credentials: Who pays; the default credentials if None.
        deadline: Seconds after which the prediction is canceled, however much has been read.

    Yields:
        Pieces of text, none of them empty.

    Raises:
        ModelError: The model failed, maybe after some pieces.
        JobError: The output is not text, or not what was streamed; `.job.output` has it.
        ReplicateError: As `run_model`.

    Example:
        ```python
        @flow
        def hello():
            for piece in stream_model("meta/meta-llama-3-8b-instruct", {"prompt": "Hi"}):
                print(piece, end="", flush=True)
        ```
    """
    text = _resumed() or await _begun(ref, input, deployment, credentials, deadline)
    try:
        async with aclosing(text.pieces()) as pieces:
            async for piece in pieces:
                yield piece
    except (Exception, asyncio.CancelledError):
        _keep(text)
        raise


async def _stream_whole(
    ref: str | None = None,
    input: Mapping[str, Any] | None = None,
    *,
    deployment: str | None = None,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
) -> list[str]:
    client, waiting = await client_for(credentials), patience(deadline)
    target = await resolve(client, ref, deployment)
    started = await start(client, target, input or {}, waiting)
    return text_of(outcome(await end_of(client, started, waiting)))


async def _begun(
    ref: str | None,
    input: Mapping[str, Any] | None,
    deployment: str | None,
    credentials: ReplicateCredentials | None,
    deadline: float | None,
) -> TextStream:
    client, waiting = await client_for(credentials), patience(deadline)
    target = await resolve(client, ref, deployment)
    started = await start(client, target, input or {}, waiting)
    return TextStream(client, engine().downloads(), started, waiting)


def _resumed() -> TextStream | None:
    """What an earlier attempt of this task run has left to go on with."""
    run = TaskRunContext.get()
    return _kept.pop(run.task_run.id, None) if run else None


def _keep(text: TextStream) -> None:
    """Keep a stream that failed for the next attempt, if there may be one.

    One whose job has failed before it said anything may be made anew instead.
    """
    run = TaskRunContext.get()
    if not run or run.task_run.run_count > run.task.retries:
        return
    if text.told or text.resumable:
        _kept[run.task_run.id] = text
    while len(_kept) > _MOST_KEPT:
        del _kept[next(iter(_kept))]


async def retry_untold(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """As `retry_transient`, but never once a part of a text is out that cannot be continued.

    Another prediction would say something else.
    """
    text = _kept.get(task_run.id)
    if text and not text.resumable:
        return False
    return await retry_transient(task, task_run, state)


class _Consumer:
    """Who reads a generator task, and whether they still do."""

    def __init__(self) -> None:
        self.left = False


_CONSUMER: contextvars.ContextVar[_Consumer] = contextvars.ContextVar("consumer")
_END: Any = object()


class StreamTask(Task[P, Generator[T, None, None]]):
    """A sync generator task that is read in a context of its own and may be left early.

    Attributes:
        whole: Does the same and gives all pieces at once.
    """

    whole: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task while its pieces are read."""
        return _read(super().__call__(*args, **kwargs))

    def with_options(self, **options: Any) -> Any:
        """The same task with other options."""
        made: Any = super().with_options(**options)
        made.__class__ = type(self)
        made.whole = self.whole
        return made

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Run it elsewhere; the future has all pieces at once."""
        return self._unread().submit(*args, **kwargs)

    def map(self, *args: Any, **kwargs: Any) -> Any:
        """As `submit`, for each of many."""
        return self._unread().map(*args, **kwargs)

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """As `submit`, in a background worker."""
        return self._unread().apply_async(*args, **kwargs)

    def _unread(self) -> Task[..., Any]:
        # A runner of tasks takes a generator for a result, and nobody would ever read it.
        made: Task[..., Any] = super().with_options(retry_condition_fn=retry_transient)
        made.fn, made.isgenerator = self.whole, False
        return made


class AsyncStreamTask(StreamTask[P, T]):
    """An async generator task that is read in a context of its own and may be left early."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task while its pieces are read."""
        run = functools.partial(Task.__call__, self, *args, **kwargs)
        return _aread(cast("Callable[[], AsyncGenerator[T, None]]", run))


def _read(pieces: Generator[T, None, None]) -> Generator[T, None, None]:
    context, consumer = contextvars.copy_context(), _Consumer()
    context.run(_CONSUMER.set, consumer)
    try:
        while (piece := context.run(next, pieces, _END)) is not _END:
            yield piece
    except GeneratorExit:
        consumer.left = True
        context.run(next, pieces, _END)
        raise


async def _aread(make: Callable[[], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    consumer = _Consumer()
    wanted: asyncio.Queue[None] = asyncio.Queue()
    given: asyncio.Queue[T] = asyncio.Queue()
    reading = asyncio.create_task(_hand_over(make, consumer, wanted, given))
    # After the last piece, and also when there is none.
    reading.add_done_callback(lambda _: given.put_nowait(_END))
    try:
        while (piece := await given.get()) is not _END:
            yield piece
            wanted.put_nowait(None)
    except GeneratorExit:
        consumer.left = True
        wanted.put_nowait(None)
        await reading
        raise
    except asyncio.CancelledError:
        reading.cancel()
        # anyio cancels again at every await of a scope that is cancelled.
        with anyio.CancelScope(shield=True):
            await asyncio.wait([reading])
        reading.cancelled() or reading.exception()  # Seen; the interruption goes on.
        raise
    await reading


async def _hand_over(
    make: Callable[[], AsyncGenerator[T, None]],
    consumer: _Consumer,
    wanted: asyncio.Queue[None],
    given: asyncio.Queue[T],
) -> None:
    """Read a generator from one and the same task, as context variables and timeouts need it."""
    _CONSUMER.set(consumer)
    interruption: asyncio.CancelledError | None = None
    async for piece in make():
        given.put_nowait(piece)
        try:
            await wanted.get()
        except asyncio.CancelledError as error:
            consumer.left, interruption = True, error
    if interruption:
        raise interruption


def _stream_twins(
    function: Callable[P, AsyncGenerator[T, None]],
    whole: Callable[P, Coroutine[Any, Any, list[T]]],
    run_name: RunName,
) -> tuple[Task[P, Generator[T, None, None]], Task[P, AsyncGenerator[T, None]]]:
    """As `twins`, of an async generator function and what does the same unread."""
    name = function.__name__.removeprefix("_")

    @functools.wraps(function)
    def sync(*args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        consumer = _CONSUMER.get(None)
        with closing(engine().iterate(lambda: function(*args, **kwargs))) as pieces:
            for piece in pieces:
                yield piece
                if consumer and consumer.left:
                    return

    @functools.wraps(function)
    async def asynchronous(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        consumer = _CONSUMER.get(None)
        async with aclosing(engine().aiterate(lambda: function(*args, **kwargs))) as pieces:
            async for piece in pieces:
                yield piece
                if consumer and consumer.left:
                    return

    made = as_task(sync, name, run_name, kind=StreamTask, retry=retry_untold)
    amade = as_task(asynchronous, f"a{name}", run_name, kind=AsyncStreamTask, retry=retry_untold)
    unread, aunread = twins(whole, run_name)
    cast("Any", made).whole, cast("Any", amade).whole = unread.fn, aunread.fn
    return made, amade


stream_model, astream_model = _stream_twins(
    _stream_model, _stream_whole, lambda p: f"stream {p['deployment'] or short(p['ref'])}"
)
