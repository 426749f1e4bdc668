"""Everything behind the routes, put together: what exists, what runs, and how the two meet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import aiohttp
import httpx

from prefect_replicate.api.references import Name, parse_name
from prefect_replicate.local import deletion, inputs, replies
from prefect_replicate.local.behaviour import Behaviour
from prefect_replicate.local.cog_worker import CogletWorker, remove_leftovers
from prefect_replicate.local.conditions import Conditions
from prefect_replicate.local.engine import StartFailed, Worker, WorkerSpec
from prefect_replicate.local.files import DELIVERY, FileStore, delivery_path
from prefect_replicate.local.outputs import file_path
from prefect_replicate.local.pool import Pool
from prefect_replicate.local.problems import Problem
from prefect_replicate.local.received import RequestLog
from prefect_replicate.local.records import (
    Deployment,
    Kind,
    Model,
    Run,
    StoredFile,
    Version,
    timestamp,
)
from prefect_replicate.local.runs import Finish, Live, RunFailed, Runs, new_run
from prefect_replicate.local.schema import CogModel, GivenUp, Reading
from prefect_replicate.local.state import State
from prefect_replicate.local.versions import Versions, version_id
from prefect_replicate.local.web import host_name, is_loopback
from prefect_replicate.local.webhooks import Webhooks

# Replicate's own limit for a model's setup.
START_TIMEOUT = 600.0
# Seconds between looks at what is too old, and how many uploads are looked at in one go.
_SWEEP_EVERY = 5.0
_SWEEP = 200

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asks for when it starts a prediction or a training.

    Attributes:
        version: What to run.
        input: For the model, as sent.
        base: The address by which the client knows this server.
        fields: What else the run's record begins with.
        deadline: Seconds until the run is ended, or None.
    """

    version: Version
    input: dict[str, Any]
    base: str
    fields: dict[str, Any]
    deadline: float | None = None


class Service:
    """One server's models, files and runs. Lives on one event loop.

    Args:
        root: Folder for everything.
        address: The server's own address, where workers find files.
        files_secret: What signs downloads of files.
        webhook_secret: What signs webhooks.
        token: What clients show; only to keep it out of the log of requests.
        conditions: How it behaves, and what goes wrong.

    Attributes:
        log: The requests that it received.
    """

    def __init__(
        self,
        root: Path,
        address: str,
        *,
        files_secret: str,
        webhook_secret: str,
        token: str,
        conditions: Conditions,
    ) -> None:
        self._address, self.files_secret = address, files_secret
        self.conditions, self.log = conditions, RequestLog(token)
        self.state = State(root / "state.db")
        self.files = FileStore(root / "files")
        self.versions = Versions(root / "versions")
        self.versions.keep_only({version.code for _, version in self.state.versions.newest()})
        # A bare transport, since a client logs every request at level INFO. Webhooks go to
        # neighbours most of the time: no proxy.
        self._transport = httpx.AsyncHTTPTransport(
            trust_env=False, limits=httpx.Limits(max_connections=None)
        )
        # aiohttp takes a quarter of httpx's time, which is most of what a short prediction costs.
        # No connection is used twice: coglet leaves Nagle's algorithm on, so on an old one every
        # event but the first comes 40 ms late.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True)
        )
        self.webhooks = Webhooks(webhook_secret, self._transport, conditions)
        self.pool = Pool(root / "workers", self._hire, idle=self.behaviour.worker_rest)
        self.pool.keep_warm(self._warm_keys)
        self.runs = Runs(self.state, self.pool, self.files, conditions)
        self._specs: dict[str, WorkerSpec] = {}
        self._stagings: dict[asyncio.Task[Any], Reading] = {}
        self._background = {
            asyncio.create_task(self.pool.reap()),
            asyncio.create_task(self._sweep()),
        }
        for run in self.runs.interrupted():
            remove_leftovers(run.id)
            self._resume(run)
        for _, deployment in self.state.deployments.newest():
            self.warm_up(deployment)

    @property
    def behaviour(self) -> Behaviour:
        """How it behaves at this moment."""
        return self.conditions.behaviour

    def now(self) -> datetime:
        """The time by this server's clock."""
        return self.conditions.now()

    async def halt(self) -> None:
        """End whatever runs."""
        for task in self._background:
            task.cancel()
        self.kill()
        await self.webhooks.close()
        await self.runs.close()

    def kill(self) -> None:
        """End all processes without waiting; safe from any thread."""
        for reading in list(self._stagings.values()):
            reading.give_up()
        self.pool.kill()

    async def close(self) -> None:
        """Let go of files and processes; `halt` comes first."""
        await self.halt()
        # They remove what they have copied.
        await asyncio.gather(*self._stagings, return_exceptions=True)
        await self.pool.close()
        await self._transport.aclose()
        await self._session.close()
        self.state.close()

    # --- models and versions ---

    async def push(self, folder: Path, name: Name, *, official: bool) -> str:
        """Make a folder a version of a model, and the model if there is none.

        Raises:
            BrokenModel: The folder holds no usable model; nothing was added.
        """
        code, model = await self._stage(folder)
        version = Version(
            owner=name.owner,
            name=name.name,
            id=version_id(code),
            created_at=timestamp(self.now()),
            code=code,
            predict=model.predict,
            train=model.train,
            openapi=model.openapi,
            concurrency=model.concurrency,
            streams=model.streams,
        )
        return self._publish(version, official=official)

    async def _stage(self, folder: Path) -> tuple[str, CogModel]:
        reading = Reading()
        staging = asyncio.create_task(asyncio.to_thread(self.versions.stage, folder, reading))
        self._stagings[staging] = reading
        staging.add_done_callback(self._staged)
        try:
            return await asyncio.shield(staging)
        except GivenUp:
            raise asyncio.CancelledError from None
        except asyncio.CancelledError:
            reading.give_up()
            raise

    def _staged(self, staging: asyncio.Task[Any]) -> None:
        del self._stagings[staging]
        if not staging.cancelled():
            staging.exception()  # looked at, since whoever waited for it may be gone

    def _publish(self, version: Version, *, official: bool = False) -> str:
        owner = self.state.models.get(version.owner, version.name)
        model = owner or Model(version.owner, version.name, version.created_at)
        model.is_official = model.is_official or official
        self.state.put_version(version, model)
        return version.reference

    def latest(self, owner: str, name: str) -> Version | None:
        """The newest version of a model."""
        found = self.state.versions.newest({"owner": owner, "name": name}, limit=1)
        return found[0][1] if found else None

    def any_version(self, version: str) -> Version | None:
        """The version of this id, of whichever model."""
        found = self.state.versions.newest({"id": version}, limit=1)
        return found[0][1] if found else None

    async def delete_version(self, version: Version) -> None:
        """Remove a version, its predictions and their files.

        Its code goes when the server starts next: until then a push may be about to use it again.
        """
        self.state.versions.delete(version.owner, version.name, version.id)
        if self.any_version(version.id) is None:
            self._specs.pop(version.id, None)
            if version.weights:
                self.files.delete(version.weights)
        doomed = deletion.predictions_of(self.state, version)
        await asyncio.gather(*(self.runs.remove(run) for run in doomed))

    # --- predictions and trainings ---

    def predict(self, order: Order) -> Run:
        """Start a prediction.

        Raises:
            Problem: 422, the input does not fit; nothing was started.
        """
        live = self._prepare(order, self._spec(order.version, "predict"), "prediction")
        self._count(order.version)
        self.runs.start(live)
        return live.run

    def train(self, order: Order, destination: Name) -> Run:
        """Start a training, whose result becomes a version of `destination`.

        Raises:
            Problem: 422, the input does not fit; nothing was started.
        """
        spec = self._spec(order.version, "train", key=secrets.token_hex(8))
        live = self._prepare(order, spec, "training")
        live.run.destination = str(destination)
        live.finish = self._finish_training(order.version, destination)
        self.runs.start(live)
        return live.run

    def _prepare(self, order: Order, spec: WorkerSpec, kind: Kind) -> Live:
        inputs.check(spec.schema, order.input)
        model = f"{order.version.owner}/{order.version.name}"
        run = new_run(
            self.now(),
            order.deadline,
            kind=kind,
            model=model,
            version=order.version.id,
            input=inputs.redact(spec.schema, order.input),
            **order.fields,
        )
        live = self._live(run, spec, order.input, order.base)
        live.fault = self.conditions.strike("run", model=model)
        return live

    def _live(self, run: Run, spec: WorkerSpec, input: dict[str, Any], base: str) -> Live:
        payload = inputs.payload(spec.schema, input, lambda url: self._reach(url, base))
        hook = self.webhooks.hook(run, lambda: replies.run(self.runs.current(run), base))
        return Live(run, spec, payload, hook=hook)

    def _resume(self, run: Run) -> None:
        """Run again what was alive when an earlier server was killed, or fail it."""
        live = self._again(run) if self.behaviour.on_restart == "rerun" else None
        if live:
            self.runs.start(live)
            return
        self.runs.give_up(run)
        base = self._address
        if hook := self.webhooks.hook(run, lambda: replies.run(run, base)):
            hook.tell("completed")

    def _again(self, run: Run) -> Live | None:
        """A run from its beginning; None if what it needs is gone, or was never kept."""
        version = self.state.versions.get(*run.model.split("/"), run.version)
        if version is None or inputs.is_redacted(run.input):
            return None
        mode: Literal["predict", "train"] = "predict" if run.kind == "prediction" else "train"
        key = secrets.token_hex(8) if mode == "train" else None
        try:
            live = self._live(run, self._spec(version, mode, key), run.input, self._address)
        except Problem:
            return None  # a file of its input has expired
        if run.destination:
            live.finish = self._finish_training(version, parse_name(run.destination))
        return live

    def _finish_training(self, base: Version, destination: Name) -> Finish:
        async def finish(output: Any) -> Callable[[], dict[str, Any]]:
            return await self._release_training(base, destination, output)

        return finish

    async def _release_training(
        self, base: Version, destination: Name, output: Any
    ) -> Callable[[], dict[str, Any]]:
        weights = output.get("weights") if isinstance(output, dict) else output
        path = file_path(weights)
        if path is None:
            raise RunFailed(
                "Failed to create trained image after successful training run: train() returned no "
                "file of weights. Return a Path, or an object whose `weights` is one."
            )
        digest = await asyncio.to_thread(self.files.digest, path)
        version = Version(
            owner=destination.owner,
            name=destination.name,
            id=version_id(base.code, digest),
            created_at=timestamp(self.now()),
            code=base.code,
            predict=base.predict,
            train=base.train,
            openapi=base.openapi,
            concurrency=base.concurrency,
            streams=base.streams,
            weights=path,
            base=base.reference,
        )
        return lambda: {"weights": weights, "version": self._publish(version)}

    def _count(self, version: Version) -> None:
        model = self.state.models.get(version.owner, version.name)
        if model:
            model.run_count += 1
            self.state.models.put(model)

    async def reset(self, *, models: bool) -> None:
        """Remove all predictions, trainings and files, and what models are if that is asked for.

        Args:
            models: Remove deployments, versions and models too.
        """
        self.conditions.faults.clear()
        self.log.clear()
        runs = [self.runs.current(run) for _, run in self.state.runs.newest()]
        await asyncio.gather(*(self.runs.remove(run) for run in runs))
        for _, file in self.state.files.newest():
            self.delete_file(file)
        if not models:
            return
        for _, deployment in self.state.deployments.newest():
            self.state.deployments.delete(deployment.owner, deployment.name)
        for _, version in self.state.versions.newest():
            await self.delete_version(version)
        for _, model in self.state.models.newest():
            self.state.models.delete(model.owner, model.name)

    # --- workers ---

    def warm_up(self, deployment: Deployment) -> None:
        """Start the worker of a deployment that keeps instances."""
        version = self.any_version(deployment.version)
        if version and deployment.min_instances:
            task = asyncio.create_task(self._warm_up(self._spec(version, "predict")))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _warm_up(self, spec: WorkerSpec) -> None:
        try:
            await self.pool.warm_up(spec)
        except StartFailed as error:
            # Its predictions fail with the same reason, where somebody will read it.
            logger.warning("A deployment's model did not start: %s", error)

    def _warm_keys(self) -> set[str]:
        deployments = [record for _, record in self.state.deployments.newest()]
        kept = {record.version for record in deployments if record.min_instances}
        return {key for key in self._specs if key in kept}

    def _spec(
        self, version: Version, mode: Literal["predict", "train"], key: str | None = None
    ) -> WorkerSpec:
        weights = self._address + delivery_path(version.weights) if version.weights else None
        if mode == "train":
            return self.versions.worker(version, mode, weights, key or version.id)
        if version.id not in self._specs:
            self._specs[version.id] = self.versions.worker(version, mode, weights, version.id)
        return self._specs[version.id]

    def _hire(self, spec: WorkerSpec, folder: Path) -> Worker:
        return CogletWorker(spec, folder, self._session, START_TIMEOUT)

    # --- files ---

    def file(self, file_id: str) -> StoredFile | None:
        """An uploaded file, unless it has expired."""
        record = self.state.files.get(file_id)
        if record and record.expires_at <= timestamp(self.now()):
            self.delete_file(record)
            return None
        return record

    async def _sweep(self) -> None:
        """Remove what is too old and what nobody asks for, for ever."""
        while True:
            await asyncio.sleep(_SWEEP_EVERY)
            for remove_some in (self.runs.remove_some_data, self._remove_expired):
                try:
                    while remove_some():  # noqa: ASYNC110 - others have their turn in between
                        await asyncio.sleep(0)
                except Exception:
                    logger.exception("What is too old could not be removed")

    def _remove_expired(self) -> bool:
        """Remove a few of the uploads that have expired; whether there may be more."""
        oldest = [record for _, record in reversed(self.state.files.newest(since=0, limit=_SWEEP))]
        return bool(oldest) and all(self.file(record.id) is None for record in oldest)

    def delete_file(self, record: StoredFile) -> None:
        """Remove an uploaded file."""
        self.state.files.delete(record.id)
        self.files.delete(record.path)

    def _reach(self, url: str, base: str) -> str | None:
        """Where a worker finds what a client knows as `url`; None if it is ours and not there."""
        with contextlib.suppress(ValueError):
            parts = urlsplit(url)
            ours = parts.netloc == urlsplit(base).netloc
            path = unquote(parts.path.removeprefix("/v1"))
            if not ours and not is_loopback(host_name(parts.netloc)):
                return url
            if path.startswith("/files/"):
                record = self.file(path.removeprefix("/files/"))
                if record or ours:
                    return self._address + delivery_path(record.path) if record else None
            if path.startswith(DELIVERY):
                stored = path.removeprefix(DELIVERY)
                if self.files.find(stored) or ours:
                    return (
                        self._address + delivery_path(stored) if self.files.find(stored) else None
                    )
            return url
        return None
