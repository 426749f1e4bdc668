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
from datetime import datetime, timedelta
from typing import Any

from prefect_replicate.local import outputs
from prefect_replicate.local.conditions import Conditions
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
from prefect_replicate.local.faults import Fault
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
_SWEEP = 200  # how many are looked at in one go
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
        fault: What is to go wrong with it.
        watchers: Set when there is new output, and at the end.
    """

    run: Run
    spec: WorkerSpec
    payload: dict[str, Any]
    finish: Finish | None = None
    hook: Hook | None = None
    fault: Fault | None = None
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
        conditions: How the server behaves.
    """

    def __init__(self, state: State, pool: Pool, files: FileStore, conditions: Conditions) -> None:
        self._state, self._pool, self._files = state, pool, files
        self._conditions = conditions
        self._live: dict[str, Live] = {}
        self._swept = 0
        self._closed = False

    def interrupted(self) -> list[Run]:
        """The runs that are not alive here but were not ended either, newest first."""
        # What is written down before a run's end is its start.
        found = [run for _, run in self._state.runs.newest({"status": "starting"})]
        return [run for run in found if run.id not in self._live]

    def give_up(self, run: Run) -> None:
        """Fail a run that was interrupted."""
        error = f"{INTERRUPTED}: Local Replicate stopped while it ran."
        _end(run, "failed", error, self._conditions.now())
        self._state.runs.put(run)

    def start(self, live: Live) -> None:
        """Write a run down and set it going."""
        self._state.runs.put(live.run)
        self._live[live.run.id] = live
        if live.fault and live.fault.kind == "odd_status":
            live.run.odd_status = live.fault.status
        if live.fault and live.fault.kind == "partial":
            live.run.odd_status = "processing"  # also to who waits, who is else told "starting"
        if live.run.deadline:
            left = datetime.fromisoformat(live.run.deadline) - self._conditions.now()
            loop = asyncio.get_running_loop()
            live.timers.append(loop.call_later(left.total_seconds(), self._expire, live))
        live.task = asyncio.create_task(self._carry_out(live), name=f"run {live.run.id}")
        # Not at the end of the coroutine: one that is cancelled at once never begins.
        live.task.add_done_callback(lambda _: self._let_go(live))

    def get(self, run_id: str) -> Run | None:
        """A run as it is at this moment."""
        live = self._live.get(run_id)
        run = _read(live) if live else self._state.runs.get(run_id)
        return self._remembered(run) if run else None

    def current(self, run: Run) -> Run:
        """The newest state of a run that was read from the database."""
        live = self._live.get(run.id)
        return self._remembered(_read(live) if live else run)

    async def wait(self, run: Run, seconds: float) -> bool:
        """Wait until a run has ended; whether it has."""
        live = self._live.get(run.id)
        if live and not run.ended:
            partial = live.fault and live.fault.kind == "partial"
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await (self._first_part(run) if partial else live.ended.wait())
        return run.ended

    async def _first_part(self, run: Run) -> None:
        with self.watch(run) as changed:
            while run.output is None and not run.ended:
                await changed.wait()
                changed.clear()

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

    def remove_some_data(self) -> bool:
        """Remove the data of old predictions, of a few at a time; whether there may be more."""
        found = self._state.runs.newest(since=self._swept, limit=_SWEEP)
        for place, run in reversed(found):
            # In the order of their creation: what waits for a long one goes a little later.
            if not (run.kind == "training" or self._remembered(run).data_removed):
                return False
            self._swept = place
        return len(found) == _SWEEP

    def _remembered(self, run: Run) -> Run:
        """A run without what is too old to be kept. Only predictions lose their data."""
        keep = self._conditions.behaviour.retention
        if keep is None or run.kind == "training" or run.data_removed or not run.completed_at:
            return run
        age = self._conditions.now() - datetime.fromisoformat(run.completed_at)
        if age >= timedelta(seconds=keep):
            self.remove_data(run)
        return run

    def _expire_data(self, run_id: str) -> None:
        if not self._closed and (run := self.get(run_id)) and not run.data_removed:
            self.remove_data(run)

    def remove_data(self, run: Run) -> None:
        """Remove input, output, logs and output files of a run; the rest of it stays."""
        for path in outputs.file_paths(run.output):
            self._files.delete(path)
        run.input, run.output, run.logs, run.data_removed = {}, None, "", True
        self._state.runs.put(run)

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
        self._closed = True
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
            if live.fault and live.fault.kind == "cold_boot":
                await asyncio.sleep(live.fault.seconds)
            if live.fault and live.fault.kind == "fail":
                self._begin(live)
                await asyncio.sleep(live.fault.seconds)
                self._end(live, "failed", live.fault.error)
                return
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
        match event:
            case Started():
                self._begin(live)
            case Logged(text):
                live.unread.append(text)
                _tell(live, "logs")
            case Produced():
                await self._add_part(live, event)
            case Ended():
                await self._conclude(live, event)

    def _begin(self, live: Live) -> None:
        run, behaviour = live.run, self._conditions.behaviour
        run.status, run.started_at = "processing", timestamp(self._conditions.now())
        run.output, void = None, run.output
        self._drop_files(run, void)
        if run.kind == "prediction" and not (run.deadline and behaviour.deadline_lifts_limit):
            limit = behaviour.run_limit
            error = f"Prediction timed out: it ran for longer than {limit:g} seconds."
            loop = asyncio.get_running_loop()
            live.timers.append(loop.call_later(limit, self._stop, live, "failed", error))
        _tell(live, "start")

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
        saved: list[str] = []

        def save(file: outputs.Content, stem: str) -> str:
            if isinstance(file, str):
                saved.append(self._files.save_data_uri(file, stem).path)
            else:
                saved.append(self._files.take(file.path, stem))
            return saved[-1]

        def keep() -> Any:
            return outputs.keep_files(value, schema, openapi, save, name)

        if isinstance(value, str) and len(value) < _BIG:
            return keep()
        keeping = asyncio.create_task(asyncio.to_thread(keep))
        try:
            return await asyncio.shield(keeping)
        except BaseException:
            # The thread goes on; nobody else knows what it has saved.
            await asyncio.gather(keeping, return_exceptions=True)
            for path in saved:
                self._files.delete(path)
            raise

    def _end(self, live: Live, status: str, error: str | None) -> None:
        if live.run.ended:
            return
        _end(_read(live), status, error, self._conditions.now())
        self._state.runs.put(live.run)
        live.ended.set()
        _tell(live, "completed")
        if live.fault and live.fault.kind == "expire":
            loop = asyncio.get_running_loop()
            loop.call_later(live.fault.seconds, self._expire_data, live.run.id)


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
    # Some letters are a little likelier so, which harms nobody and takes a fifth of the time.
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in secrets.token_bytes(26))


def new_run(now: datetime, deadline: float | None = None, **fields: Any) -> Run:
    """A run that is about to start; `deadline` in seconds from now."""
    end = timestamp(now + timedelta(seconds=deadline)) if deadline is not None else None
    return Run(id=new_id(), created_at=timestamp(now), deadline=end, **fields)


def _end(run: Run, status: str, error: str | None, now: datetime) -> None:
    run.status, run.error, run.completed_at = status, error, timestamp(now)
    total = (now - datetime.fromisoformat(run.created_at)).total_seconds()
    metrics = dict(run.metrics or {})
    if run.started_at:
        spent = (now - datetime.fromisoformat(run.started_at)).total_seconds()
        metrics.setdefault("predict_time", spent)
    run.metrics = {**metrics, "total_time": total}
