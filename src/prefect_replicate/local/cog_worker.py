"""Workers that run on coglet, Cog's own server, of which only this and `worker_process` know.

Its ways that matter here: state comes as server-sent events on the request itself, but a burst of
some thousand events makes it cut them off and cancel the prediction; a slot is freed some
milliseconds after its prediction; a crashed model never recovers; the model's interpreter is
started as plain `python`; every prediction leaves a folder behind; files in an output would come as
data: URIs.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from prefect_replicate.local import environment, takeover
from prefect_replicate.local.engine import (
    Ended,
    Event,
    Logged,
    Produced,
    Started,
    StartFailed,
    WorkerLost,
    WorkerSpec,
)

_PROGRAM = Path(__file__).with_name("worker_process.py")
LEFTOVERS = Path("/tmp/coglet/predictions")  # noqa: S108 - coglet's choice; it ignores TMPDIR
_LOG_TAIL = 4000  # characters of a failed start that go into the logs
_PREFIXES = re.compile(
    r"^(?:(?:(?:Async )?Prediction failed|Training failed|Generator iteration error): )+",
    re.IGNORECASE,
)
_SETUP_PREFIX = re.compile(r"^.*\bsetup failed: ", re.IGNORECASE | re.DOTALL)
_BIG = 1 << 20  # bytes of an event that are read in a thread
_CRASHED = "Worker crashed"
_PORT_TAKEN = "Address already in use"
_ports: set[int] = set()  # of all workers of this program, from before they listen
# How it shows that the process is gone, or does not answer.
_LOST = (aiohttp.ClientError, TimeoutError)


class CogletWorker:
    """A model in a process of its own, run by coglet.

    Args:
        spec: What to run.
        folder: A folder of its own: the model's working copy, its temporary files, its log.
        session: For HTTP to the process.
        start_timeout: Seconds until a worker that is not ready counts as failed; coglet has no
            limit of its own, and waits for ever where its interpreter cannot start.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        folder: Path,
        session: aiohttp.ClientSession,
        start_timeout: float,
    ) -> None:
        self._spec, self._folder, self._session = spec, folder, session
        self._start_timeout = start_timeout
        self._outputs = folder / "outputs"  # a folder for each run
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._running = 0
        self._closing = False
        self._broken = False
        self._killed = False  # once: later the id may belong to somebody else

    @property
    def usable(self) -> bool:
        """Whether it can take another prediction."""
        return self._alive and not self._broken

    @property
    def _alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Return when the model is ready.

        Raises:
            StartFailed: It is not, with the reason and its logs.
        """
        self._preparing = asyncio.create_task(asyncio.to_thread(self._prepare))
        await asyncio.shield(self._preparing)
        for last in (False, False, True):
            self._port = _take_port(instead_of=self._port)
            try:
                await self._launch()
            except StartFailed as error:
                # A model may speak of ports too, but then its process is still there.
                if last or self._alive or _PORT_TAKEN not in error.logs:
                    raise
                self._kill_group()  # whatever it had started already
            else:
                return

    async def _launch(self) -> None:
        with (self._folder / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                str(_PROGRAM),
                str(os.getpid()),
                takeover.reference(),
                self._spec.mode,
                cwd=self._folder / "model",
                env=self._environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._ready()
        except TimeoutError:
            raise StartFailed(
                f"E6716: the model was not ready after {self._start_timeout:g} s", self._log()
            ) from None

    def _prepare(self) -> None:
        model = self._folder / "model"
        # A copy, not links: a training that opens its weights for writing would change the version.
        shutil.copytree(self._spec.source, model, copy_function=self._copy)
        (model / ".cog").mkdir(exist_ok=True)
        (model / ".cog" / "openapi_schema.json").write_text(json.dumps(self._spec.schema))
        takeover.write_model(model, self._spec)
        (self._folder / "tmp").mkdir()
        self._outputs.mkdir()
        python = self._folder / "bin" / "python"
        python.parent.mkdir()
        # Not a link: a linked interpreter would look for its virtual environment here.
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)

    def _copy(self, source: str, target: str) -> None:
        if self._closing:
            raise StartFailed("it was ended while it started")
        shutil.copy2(source, target)

    def _environment(self) -> dict[str, str]:
        kept = environment.for_models()
        # coglet starts `python` from PATH, and models may call scripts of this environment.
        scripts = str(Path(sys.executable).parent)
        path = os.pathsep.join([str(self._folder / "bin"), scripts, kept["PATH"]])
        weights = {"COG_WEIGHTS": self._spec.weights} if self._spec.weights else {}
        # Workers that run side by side would each start a thread for every processor.
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        return {
            **kept,
            **dict.fromkeys(threads, "1"),
            **weights,
            "PATH": path,
            "PORT": str(self._port),
            "TMPDIR": str(self._folder / "tmp"),
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "PYTHONUNBUFFERED": "1",
            "COG_LOG_LEVEL": "warning",
            "COG_MAX_CONCURRENCY": str(self._spec.concurrency),
        }

    async def _ready(self) -> None:
        while True:
            health = await self._health()
            # Looked at last: whoever answers may be somebody else on the same port.
            if self._process and self._process.returncode is not None:
                raise StartFailed(
                    f"its process ended with code {self._process.returncode}", self._log()
                )
            if health.get("status") == "READY":
                return
            if health.get("status") in {"SETUP_FAILED", "UNHEALTHY", "DEFUNCT"}:
                reason = _SETUP_PREFIX.sub("", health.get("setup", {}).get("logs", "")).strip()
                raise StartFailed(reason or "its setup failed", self._log())
            await asyncio.sleep(0.02)

    async def _health(self) -> dict[str, Any]:
        try:
            async with self._send("GET", "/health-check") as response:
                return dict(json.loads(await response.read()))
        except (*_LOST, ValueError):
            return {}

    def _log(self) -> str:
        """What the model printed, out of coglet's own log."""
        lines = (self._folder / "log").read_text(errors="replace").splitlines()
        text = "".join(f"{line}\n" for line in map(_message, lines) if line)
        return text[-_LOG_TAIL:]

    async def run(self, run_id: str, payload: dict[str, Any]) -> AsyncGenerator[Event]:
        """Run the model once and tell what happens, in order.

        Raises:
            WorkerLost: The process is gone.
        """
        outputs = self._outputs / run_id
        outputs.mkdir()
        self._running += 1
        try:
            async with aclosing(self._watched(run_id, payload)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, Ended):
                        return
            # The model printed faster than coglet could tell, which made coglet give up on both.
            yield Started()
            yield await self._unwatched(run_id, payload)
        except _LOST as error:
            self._broken = True
            raise WorkerLost(str(error) or type(error).__name__) from error
        finally:
            self._running -= 1
            if not self._running:  # another may have fetched the same
                takeover.remove_downloads(self._folder / "tmp", payload)
            remove_leftovers(run_id)
            _remove(outputs)

    async def _watched(self, run_id: str, payload: dict[str, Any]) -> AsyncGenerator[Event]:
        """Events as they happen; no end where coglet lost count of them."""
        async with self._post(run_id, payload, "text/event-stream") as response:
            async for name, data in server_sent(response.content.iter_any()):
                if name == "error" and "lagged" in data.get("error", ""):
                    return
                if event := self._read(name, data, run_id):
                    yield event
                    if isinstance(event, Ended):
                        return
        raise aiohttp.ClientPayloadError("its answer ended before the prediction did")

    async def _unwatched(self, run_id: str, payload: dict[str, Any]) -> Ended:
        """The end alone."""
        # The model that printed so much may not have ended yet, for all that it was canceled.
        async with self._post(run_id, payload, "application/json", slot_within=60.0) as response:
            answer = await asyncio.to_thread(json.loads, await response.read())
            return self._end(answer, run_id)

    @asynccontextmanager
    async def _post(
        self, run_id: str, payload: dict[str, Any], accept: str, slot_within: float = 10.0
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        until = time.monotonic() + slot_within
        context = takeover.context(self._outputs / run_id)
        body = {"id": run_id, "input": payload, "context": context}
        while True:
            async with self._send("POST", "/predictions", body, accept, patience=None) as response:
                if response.status == 200:
                    yield response
                    return
                text = (await response.read()).decode(errors="replace")
            # A slot is freed a few milliseconds after the prediction that held it.
            if response.status != 409 or time.monotonic() > until:
                raise aiohttp.ClientError(f"{response.status} {text[:500]}")
            await asyncio.sleep(0.003)

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        accept: str = "application/json",
        *,
        patience: float | None = 10.0,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; `patience` is for the answer, in seconds."""
        async with self._session.request(
            method,
            f"http://127.0.0.1:{self._port}{path}",
            json=body,
            headers={"Accept": accept},
            timeout=aiohttp.ClientTimeout(sock_connect=10.0, sock_read=patience),
        ) as response:
            yield response

    def _read(self, name: str, data: dict[str, Any], run_id: str) -> Event | None:
        match name:
            case "start":
                return Started()
            case "log":
                return Logged(data["data"])
            case "output":
                part = takeover.received(data["chunk"], self._outputs / run_id)
                return Produced(data["index"], part)
            case "completed":
                return self._end(data, run_id)
            case _:  # metrics come again at the end, heartbeats say nothing
                return None

    def _end(self, data: dict[str, Any], run_id: str) -> Ended:
        error = data.get("error")
        if error == _CRASHED:
            self._broken = True
            error = "The model's process died: it exited, crashed or ran out of memory."
        return Ended(
            status=data["status"],
            output=takeover.received(data.get("output"), self._outputs / run_id),
            error=_PREFIXES.sub("", error) if error else None,
            logs=data.get("logs") or "",
            metrics=data.get("metrics") or {},
        )

    async def cancel(self, run_id: str) -> None:
        """Ask the model to stop; it may not listen."""
        with suppress(*_LOST):
            async with self._send("POST", f"/predictions/{run_id}/cancel"):
                pass

    def kill(self) -> None:
        """End the process and all that it started, now."""
        if self._process and not self._killed:
            self._broken = self._killed = True
            self._kill_group()

    def _kill_group(self) -> None:
        if self._process:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Kill it, wait until it is gone and remove its folder."""
        self._closing = True
        self.kill()
        if self._preparing:
            # Else that thread would go on writing into what is removed.
            await asyncio.gather(self._preparing, return_exceptions=True)
        if self._process:
            await self._process.wait()
        _ports.discard(self._port)
        # Not in a thread: at the end of the interpreter there are no new threads.
        shutil.rmtree(self._folder, ignore_errors=True)


def remove_leftovers(run_id: str) -> None:
    """Remove the folder that coglet makes for every prediction and never removes."""
    for name in ("inputs", "outputs", ""):
        _remove(LEFTOVERS / run_id / name)


def _remove(folder: Path) -> None:
    """Remove a folder, which is empty most of the time; the general way takes much longer."""
    try:
        folder.rmdir()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def _take_port(instead_of: int) -> int:
    """A port that is free and that no other worker of this program is about to listen on."""
    _ports.discard(instead_of)
    with ExitStack() as probes:  # a port that is held cannot be offered again
        while True:
            probe = probes.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port not in _ports:
                _ports.add(port)
                return port


def _message(line: str) -> str:
    """What a line of coglet's log says if the model printed it; lines of others as they are."""
    try:
        entry = json.loads(line)
        return str(entry["fields"]["message"]) if entry["target"] == "coglet::setup" else ""
    except (ValueError, KeyError, TypeError):
        return line


async def server_sent(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Events of a stream whose data is a JSON object, by name."""
    buffer = bytearray()
    seen = 0
    async for chunk in chunks:
        buffer += chunk
        while (end := buffer.find(b"\n\n", seen)) >= 0:
            block = bytes(buffer[:end])
            del buffer[: end + 2]
            seen = 0
            big = len(block) > _BIG
            if event := await asyncio.to_thread(_parse, block) if big else _parse(block):
                yield event
        seen = max(0, len(buffer) - 1)


def _parse(block: bytes) -> tuple[str, dict[str, Any]] | None:
    name, data = "", b""
    for line in block.split(b"\n"):
        if line.startswith(b"event:"):
            name = line[6:].strip().decode()
        elif line.startswith(b"data:"):
            data += line[5:]
    return (name, json.loads(data)) if name and data else None
