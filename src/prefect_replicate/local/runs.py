"""The life of predictions and trainings: starting, processing, and one of four ends.

A run is in memory while it lives and in the database from its first moment on; its logs and parts
of its output are written down when it ends.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect_replicate.local import outputs
from prefect_replicate.local.engine import (
    Ended,
    Event,
    Logged,
    Produced,
    Started,
    StartFailed,
    Worker,
    WorkerLost,
    WorkerSpec,
)
from prefect_replicate.local.files import FileStore
from prefect_replicate.local.pool import Pool
from prefect_replicate.local.records import Run, timestamp
from prefect_replicate.local.state import State
from prefect_replicate.local.webhooks import Hook

# How long a model may go on after a cancel before its process is ended.
CANCEL_GRACE = 5.0
# In Replicate's words, so that clients know that another try may do.
INTERRUPTED = "Prediction interrupted; please retry (code: PA)"
_BIG = 1 << 20  # characters of a data: URI that are decoded in a thread
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"

logger = logging.getLogger(__name__)


class RunFailed(Exception):
    """What follows the model's own success did not work out; the message is the run's error."""


# Does what is left after the model with its kept output, and gives the last step, the one that
# others can see: it is taken only if the run was not ended meanwhile, and gives the run's output.
Finish = Callable[[Any], Awaitable[Callable[[], Any]]]


@dataclass(eq=False, slots=True)
class Live:
    """A run that has not ended, or whose worker is not free again.

    Attributes:
        spec: What runs it; its schema tells files from texts.
        payload: The model's input as the worker gets it.
        unread: Logs that are not yet in the run; put together only when somebody looks.
        finish: What is left to do after the model.
        hook: Tells the client of it.
        watchers: Set when there is new output, and at the end.
    """

    run: Run
    spec: WorkerSpec
    payload: dict[str, Any]
    finish: Finish | None = None
    hook: Hook | None = None
    worker: Worker | None = None
    task: asyncio.Task[None] | None = None
    asking: asyncio.Task[None] | None = None
    unread: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    watchers: set[asyncio.Event] = field(default_factory=set)


class Runs:
    """All predictions and trainings.

    Args:
        state: Where they are written down.
        pool: Where workers come from.
        files: Where output files go.

    Attributes:
        interrupted: Ids of the runs that an earlier server left behind unfinished.
    """

    def __init__(self, state: State, pool: Pool, files: FileStore) -> None:
        self._state, self._pool, self._files = state, pool, files
        self._live: dict[str, Live] = {}
        self.interrupted = []
        # What is written down before a run's end is its start.
        for _, run in state.runs.newest({"status": "starting"}):
            _end(run, "failed", f"{INTERRUPTED}: Local Replicate stopped while it ran.")
            state.runs.put(run)
            self.interrupted.append(run.id)

    def start(self, live: Live) -> None:
        """Write a run down and set it going."""
        self._state.runs.put(live.run)
        self._live[live.run.id] = live
        if live.run.deadline:
            left = datetime.fromisoformat(live.run.deadline) - datetime.now(UTC)
            loop = asyncio.get_running_loop()
            live.timers.append(loop.call_later(left.total_seconds(), self._expire, live))
        live.task = asyncio.create_task(self._carry_out(live), name=f"run {live.run.id}")
        # Not at the end of the coroutine: one that is cancelled at once never begins.
        live.task.add_done_callback(lambda _: self._let_go(live))

    def get(self, run_id: str) -> Run | None:
        """A run as it is at this moment."""
        live = self._live.get(run_id)
        return _read(live) if live else self._state.runs.get(run_id)

    def current(self, run: Run) -> Run:
        """The newest state of a run that was read from the database."""
        live = self._live.get(run.id)
        return _read(live) if live else run

    async def wait(self, run: Run, seconds: float) -> bool:
        """Wait until a run has ended; whether it has."""
        live = self._live.get(run.id)
        if live and not run.ended:
            with suppress(TimeoutError):
                await asyncio.wait_for(live.ended.wait(), seconds)
        return run.ended

    @contextmanager
    def watch(self, run: Run) -> Iterator[asyncio.Event]:
        """What is set when a run has new output, and at its end; clear it before looking."""
        changed = asyncio.Event()
        live = self._live.get(run.id)
        if live is None:
            yield changed
            return
        live.watchers.add(changed)
        try:
            yield changed
        finally:
            live.watchers.remove(changed)

    def cancel(self, run: Run) -> Run:
        """Cancel a run; one that has ended stays as it is."""
        if live := self._live.get(run.id):
            self._stop(live, "canceled", None)
            return live.run
        return run

    async def remove(self, run: Run) -> None:
        """Forget a run and the files of its output; it is canceled first if it has not ended."""
        run = self.cancel(run)
        if (live := self._live.get(run.id)) and live.task:
            await asyncio.wait([live.task])  # its model may go on for a moment
        self._state.runs.delete(run.id)
        for path in outputs.file_paths(run.output):
            self._files.delete(path)

    async def close(self) -> None:
        """Fail whatever still runs, and wait until it is let go of."""
        lives = list(self._live.values())
        for live in lives:
            self._end(live, "failed", f"{INTERRUPTED}: Local Replicate was stopped.")
            if live.task:
                live.task.cancel()
        await asyncio.gather(*(live.task for live in lives if live.task), return_exceptions=True)

    def _expire(self, live: Live) -> None:
        self._stop(live, "aborted" if live.run.status == "starting" else "canceled", None)

    def _stop(self, live: Live, status: str, error: str | None) -> None:
        """End a run from outside. Its worker is free again only when the model has stopped."""
        if live.run.ended or not live.task:
            return
        self._end(live, status, error)
        if live.worker is None:
            live.task.cancel()
            return
        live.asking = asyncio.create_task(live.worker.cancel(live.run.id))
        loop = asyncio.get_running_loop()
        live.timers.append(loop.call_later(CANCEL_GRACE, live.worker.kill))

    async def _carry_out(self, live: Live) -> None:
        try:
            await self._attempt(live)
        except StartFailed as error:
            if error.logs:
                live.unread.append(error.logs)
                _tell(live, "logs")
            self._end(live, "failed", f"The model did not start: {error}")
        except WorkerLost as error:
            self._end(live, "failed", f"{INTERRUPTED}: its process is gone ({error}).")
        except RunFailed as error:
            self._end(live, "failed", str(error))
        except Exception:
            logger.exception("%s %s failed inside Local Replicate", live.run.kind, live.run.id)
            self._end(live, "failed", f"{INTERRUPTED}: an error in Local Replicate, see its log.")

    def _let_go(self, live: Live) -> None:
        for timer in live.timers:
            timer.cancel()
        del self._live[live.run.id]

    async def _attempt(self, live: Live) -> None:
        for last in (False, True):
            async with self._pool.lease(live.spec) as worker:
                live.worker = worker
                try:
                    await self._follow(live, worker)
                except WorkerLost:
                    # An idle worker may have died unseen; a model that had begun is not repeated.
                    if last or live.run.status != "starting":
                        raise
                else:
                    return
                finally:
                    live.worker = None

    async def _follow(self, live: Live, worker: Worker) -> None:
        async with aclosing(worker.run(live.run.id, live.payload)) as events:
            async for event in events:
                if not live.run.ended:
                    await self._apply(live, event)
                elif isinstance(event, Started):
                    # Canceled before the worker knew of it, so it has to be told again.
                    await worker.cancel(live.run.id)

    async def _apply(self, live: Live, event: Event) -> None:
        run = live.run
        match event:
            case Started():
                run.status, run.started_at = "processing", timestamp(datetime.now(UTC))
                run.output = None
                _tell(live, "start")
            case Logged(text):
                live.unread.append(text)
                _tell(live, "logs")
            case Produced():
                await self._add_part(live, event)
            case Ended():
                await self._conclude(live, event)

    async def _add_part(self, live: Live, part: Produced) -> None:
        if not outputs.is_list(live.spec.schema):
            return  # one value, which the end brings again
        item = outputs.item_schema(live.spec.schema)
        kept = await self._keep(part.value, item, live.spec.schema, f"out-{part.index}")
        if live.run.ended:
            self._drop_files(live.run, kept)
            return
        if live.run.output is None:
            live.run.output = []
        live.run.output.append(kept)
        _tell(live, "output")

    async def _conclude(self, live: Live, end: Ended) -> None:
        run = _read(live)
        if len(end.logs) > len(run.logs):
            run.logs = end.logs
            _tell(live, "logs")
        run.metrics = end.metrics
        if end.status != "succeeded":
            self._end(live, end.status, end.error)
            return
        output = await self._whole_output(live, end.output)
        last_step = await live.finish(output) if live.finish and not run.ended else None
        if run.ended:
            self._drop_files(run, output)
            return
        parts, run.output = run.output, last_step() if last_step else output
        if run.output is not parts:
            _tell(live, "output")
        self._end(live, "succeeded", None)

    def _drop_files(self, run: Run, output: Any) -> None:
        """Remove the files of an output that came too late, but for those that the run shows."""
        for path in set(outputs.file_paths(output)) - set(outputs.file_paths(run.output)):
            self._files.delete(path)

    async def _whole_output(self, live: Live, output: Any) -> Any:
        """The output with its files kept, those that came as parts not a second time."""
        parts = live.run.output
        if isinstance(parts, list) and isinstance(output, list) and len(parts) == len(output):
            return parts
        schema = live.spec.schema
        return await self._keep(output, outputs.output_schema(schema), schema, "output")

    async def _keep(
        self, value: Any, schema: Mapping[str, Any], openapi: Mapping[str, Any], name: str
    ) -> Any:
        def keep() -> Any:
            return outputs.keep_files(value, schema, openapi, save, name)

        def save(uri: str, stem: str) -> str:
            return self._files.save_data_uri(uri, stem).path

        small = isinstance(value, str) and len(value) < _BIG
        return keep() if small else await asyncio.to_thread(keep)

    def _end(self, live: Live, status: str, error: str | None) -> None:
        if live.run.ended:
            return
        _end(_read(live), status, error)
        self._state.runs.put(live.run)
        live.ended.set()
        _tell(live, "completed")


def _read(live: Live) -> Run:
    if live.unread:
        live.run.logs += "".join(live.unread)
        live.unread.clear()
    return live.run


def _tell(live: Live, event: str) -> None:
    """Pass on that one of the events of webhooks happened."""
    if live.hook:
        live.hook.tell(event)
    if event in {"output", "completed"}:
        for changed in live.watchers:
            changed.set()


def new_id() -> str:
    """An id as Replicate makes them: 26 lowercase letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(26))


def new_run(deadline: float | None = None, **fields: Any) -> Run:
    """A run that is about to start; `deadline` in seconds from now."""
    now = datetime.now(UTC)
    end = timestamp(now + timedelta(seconds=deadline)) if deadline is not None else None
    return Run(id=new_id(), created_at=timestamp(now), deadline=end, **fields)


def _end(run: Run, status: str, error: str | None) -> None:
    now = datetime.now(UTC)
    run.status, run.error, run.completed_at = status, error, timestamp(now)
    total = (now - datetime.fromisoformat(run.created_at)).total_seconds()
    metrics = dict(run.metrics or {})
    if run.started_at:
        spent = (now - datetime.fromisoformat(run.started_at)).total_seconds()
        metrics.setdefault("predict_time", spent)
    run.metrics = {**metrics, "total_time": total}
