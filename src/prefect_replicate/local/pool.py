"""Workers by what they run: started when needed, kept warm for a while, few at a time."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from prefect_replicate.local.engine import StartFailed, Worker, WorkerSpec

# Each takes some 70 MB of memory before the model's own.
MOST_WORKERS = 6
IDLE_SECONDS = 60.0
_REAP_EVERY = 0.05  # seconds at least between looks for idle workers

logger = logging.getLogger(__name__)

Hire = Callable[[WorkerSpec, Path], Worker]


class _Place:
    """Where the predictions of one spec meet its worker."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.slots = asyncio.Semaphore(spec.concurrency)
        self.starting = asyncio.Lock()
        self.worker: Worker | None = None
        self.users = 0
        self.idle_since = time.monotonic()


class Pool:
    """All workers of a server.

    Args:
        folder: For the workers' own folders; emptied first.
        hire: Makes a worker, not yet started, that may use the given folder.
        most: How many may live at a time.
        idle: Seconds after which an unused one is ended.
    """

    def __init__(
        self, folder: Path, hire: Hire, *, most: int = MOST_WORKERS, idle: float = IDLE_SECONDS
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._folder, self._hire, self._most, self._idle = folder, hire, most, idle
        self._places: dict[str, _Place] = {}
        self._live: set[Worker] = set()
        self._changed = asyncio.Condition()
        self._closed = False
        self._warm: Callable[[], set[str]] = set

    def keep_warm(self, keys: Callable[[], set[str]]) -> None:
        """Take `keys` for what is never ended just for being idle."""
        self._warm = keys

    @asynccontextmanager
    async def lease(self, spec: WorkerSpec) -> AsyncIterator[Worker]:
        """A worker that is ready, for one prediction.

        Raises:
            StartFailed: It could not be started.
        """
        place = self._places.setdefault(spec.key, _Place(spec))
        place.users += 1
        try:
            async with place.slots:
                yield await self._ready(place)
        finally:
            place.users -= 1
            place.idle_since = time.monotonic()
            try:
                if place.worker and (spec.single_use or not place.worker.usable):
                    await self._dismiss(place)
            finally:
                self._forget(place)
                await self._tell()

    async def warm_up(self, spec: WorkerSpec) -> None:
        """Start a worker ahead of its first prediction.

        Raises:
            StartFailed: It could not be started.
        """
        async with self.lease(spec):
            pass

    async def reap(self) -> None:
        """End idle workers, for ever."""
        while True:
            await asyncio.sleep(max(self._idle / 10, _REAP_EVERY))
            try:
                await self._end_idlers()
            except Exception:
                logger.exception("An idle worker could not be ended")

    async def _end_idlers(self) -> None:
        warm, late = self._warm(), time.monotonic() - self._idle
        for place in self._idlers():
            if place.idle_since < late and place.spec.key not in warm and place.users == 0:
                await self._dismiss(place)
                self._forget(place)

    async def close(self) -> None:
        """End all workers, and start no more."""
        self._closed = True
        for worker in self._live:
            worker.kill()
        await asyncio.gather(*(worker.close() for worker in list(self._live)))

    def kill(self) -> None:
        """End all workers without waiting; safe from any thread."""
        self._closed = True
        for worker in list(self._live):
            worker.kill()

    async def _ready(self, place: _Place) -> Worker:
        async with place.starting:
            if place.worker and place.worker.usable:
                return place.worker
            await self._dismiss(place)
            await self._make_room()
            if self._closed:
                raise StartFailed("the server is stopping")
            worker = self._hire(place.spec, self._new_folder())
            self._live.add(worker)
            try:
                await worker.start()
            except BaseException:
                await self._end(worker)
                raise
            place.worker = worker
            return worker

    def _new_folder(self) -> Path:
        folder = self._folder / secrets.token_hex(8)
        folder.mkdir()
        return folder

    async def _make_room(self) -> None:
        while len(self._live) >= self._most:
            if idle := self._idlers():
                await self._dismiss(idle[0])
                continue
            async with self._changed:
                await self._changed.wait_for(self._may_start)

    def _may_start(self) -> bool:
        return len(self._live) < self._most or bool(self._idlers())

    def _idlers(self) -> list[_Place]:
        """Places whose worker has nothing to do; the first is missed least."""
        idle = [place for place in self._places.values() if place.worker and not place.users]
        warm = self._warm()
        return sorted(idle, key=lambda place: (place.spec.key in warm, place.idle_since))

    def _forget(self, place: _Place) -> None:
        if not place.users and not place.worker and self._places.get(place.spec.key) is place:
            del self._places[place.spec.key]

    async def _dismiss(self, place: _Place) -> None:
        worker, place.worker = place.worker, None
        if worker:
            await self._end(worker)

    async def _end(self, worker: Worker) -> None:
        try:
            await worker.close()
        finally:
            self._live.discard(worker)
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
