"""The server as an object: start it, push models, point any client at it, stop it."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

from pydantic import SecretStr

from prefect_replicate.api.references import Name, parse_name
from prefect_replicate.local import address, descriptors
from prefect_replicate.local.behaviour import Behaviour
from prefect_replicate.local.conditions import Conditions
from prefect_replicate.local.faults import Fault, Set
from prefect_replicate.local.janitor import Janitor
from prefect_replicate.local.received import Received
from prefect_replicate.local.secret_file import keep_secret

if TYPE_CHECKING:
    from prefect_replicate.blocks.credentials import ReplicateCredentials
    from prefect_replicate.local.service import Service

# How long a start or a stop may take before it is given up.
_PATIENCE = 30.0
_UNAVAILABLE = (
    "Local Replicate cannot run models on this machine: {reason}. It needs the extra packages of "
    "`pip install 'prefect-replicate[local]'`, of which coglet exists for Linux (x86_64 and "
    "aarch64, glibc) and macOS (arm64) only. Everything against replicate.com works without them."
)

T = TypeVar("T")

logger = logging.getLogger(__name__)


class LocalReplicateError(Exception):
    """Local Replicate cannot start, or was asked for something while it is not running."""


class LocalReplicate:
    """An embedded server that speaks Replicate's HTTP API and runs Cog models in processes.

    It lives on a thread of its own; `start` returns when it answers. No process outlives `stop`,
    nor the program that started it.

    Args:
        root: Folder for models, files and history; a later server with the same folder has them
            all. None for a temporary one that is removed at the end.
        host: Address to listen on. Models are programs, so keep it on this machine.
        port: Port to listen on; 0 for a free one.
        token: The API token to ask for. Without one, that of an earlier server in the same folder,
            else a new one.
        behaviour: How it behaves where that is not certain, or where you want it otherwise.

    Example:
        ```python
        with LocalReplicate() as server:
            version = server.push("examples/models/text", "acme/text")
            client = replicate.Client(api_token=server.token, base_url=server.base_url)
        ```
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        behaviour: Behaviour | None = None,
    ) -> None:
        self._given_root = None if root is None else Path(root)
        self._conditions = Conditions(behaviour)
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise LocalReplicateError(
                "The token cannot be sent in a header. Make it of letters, digits and _ alone."
            )
        self._host, self._given_port, self._given_token = host, port, token
        self._running: _Running | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Where it listens, without /v1: "http://127.0.0.1:PORT".

        Raises:
            LocalReplicateError: It is not running.
        """
        return self._require().base_url

    @property
    def token(self) -> str:
        """The API token that it asks for.

        Raises:
            LocalReplicateError: It is not running.
        """
        return self._require().token

    @property
    def files_secret(self) -> str:
        """What the signatures of file downloads are made with; each root folder has its own.

        Raises:
            LocalReplicateError: It is not running.
        """
        return self._require().files_secret

    @property
    def webhook_secret(self) -> str:
        """What webhooks are signed with, "whsec_" and base64; each root folder has its own.

        Raises:
            LocalReplicateError: It is not running.
        """
        return self._require().webhook_secret

    @property
    def credentials(self) -> ReplicateCredentials:
        """A block with its URL and token, for any task: `credentials=server.credentials`.

        Raises:
            LocalReplicateError: It is not running.
        """
        # Imported here, since only this property needs Prefect.
        from prefect_replicate.blocks.credentials import ReplicateCredentials  # noqa: PLC0415

        return ReplicateCredentials(api_token=SecretStr(self.token), base_url=self.base_url)

    def start(self) -> None:
        """Start; does nothing if it runs already.

        Raises:
            LocalReplicateError: A package is missing, the address is taken, or another server uses
                the same folder.
        """
        if self._running:
            return
        _check_engine()
        running = _Running(
            self._given_root,
            self._host,
            self._given_port,
            self._given_token,
            self._conditions,
        )
        try:
            running.start()
        except BaseException:
            running.stop()
            raise
        self._running = running
        atexit.register(self.stop)

    def stop(self) -> None:
        """Fail whatever runs and end every process; does nothing if it is not running."""
        running, self._running = self._running, None
        # A forked child has a copy of this object, but the server is its parent's.
        if running and running.pid == os.getpid():
            atexit.unregister(self.stop)
            running.stop()

    def push(self, folder: Path | str, name: str, *, official: bool = False) -> str:
        """Publish the Cog model in a folder as the newest version of a model.

        Args:
            folder: Holds cog.yaml and the code that it names.
            name: "owner/name"; the model is made if there is none.
            official: Make it an official model, which clients may run without naming a version.

        Returns:
            "owner/name:version".

        Raises:
            BrokenModel: The folder holds no usable model; nothing was added.
            LocalReplicateError: The server is not running, or was stopped meanwhile.
        """
        return self._require().push(Path(folder), parse_name(name), official=official)

    @property
    def behaviour(self) -> Behaviour:
        """How it behaves."""
        return self._conditions.behaviour

    def behave(self, **changes: Any) -> None:
        """Change some of its switches, from now on.

        Raises:
            pydantic.ValidationError: There is no such switch, or no such position.
        """
        fields = {**self._conditions.behaviour.model_dump(), **changes}
        self._conditions.behaviour = Behaviour.model_validate(fields)

    @contextmanager
    def behaving(self, **changes: Any) -> Iterator[None]:
        """Change some of its switches for the duration of a `with` statement."""
        before = self._conditions.behaviour
        self.behave(**changes)
        try:
            yield
        finally:
            self._conditions.behaviour = before

    @contextmanager
    def fault(self, kind: str, **fields: Any) -> Iterator[Set]:
        """Let something go wrong for the duration of a `with` statement; see `Fault`.

        Example:
            ```python
            with server.fault("drop_after", method="POST", path="/predictions") as fault:
                ...
            assert fault.struck == 1
            ```

        Raises:
            LocalReplicateError: It is not running.
            pydantic.ValidationError: There is no such fault, or it has no such field.
        """
        fault = Fault(kind=kind, **fields)
        conditions = self._conditions
        added = self._on_loop(lambda: conditions.faults.add(fault, conditions.seconds()))
        try:
            yield added
        finally:
            if self._running:
                self._on_loop(lambda: conditions.faults.remove(added.id))
            else:  # or it would strike at the next start
                conditions.faults.remove(added.id)

    def clear_faults(self) -> None:
        """Take back all faults.

        Raises:
            LocalReplicateError: It is not running.
        """
        self._on_loop(self._conditions.faults.clear)

    def requests(self, method: str | None = None, path: str | None = None) -> list[Received]:
        """The newest requests that it received, oldest first, answered or not.

        Args:
            method: Only those of this method, "POST".
            path: Only those to this path, with or without /v1: "/predictions".

        Raises:
            LocalReplicateError: It is not running.
        """
        return self._on_loop(lambda: self._require().service.log.find(method, path))

    def clear_requests(self) -> None:
        """Forget the requests that it received.

        Raises:
            LocalReplicateError: It is not running.
        """
        self._on_loop(self._require().service.log.clear)

    def reset(self, *, models: bool = False) -> None:
        """Remove all predictions, trainings and files, faults and noted requests.

        Args:
            models: Remove deployments, versions and models too.

        Raises:
            LocalReplicateError: It is not running.
        """
        running = self._require()
        running.ask(running.service.reset(models=models))

    def _on_loop(self, look: Callable[[], T]) -> T:
        async def on_loop() -> T:
            return look()

        return self._require().ask(on_loop())

    def _require(self) -> _Running:
        if self._running is None:
            raise LocalReplicateError(
                "Local Replicate is not running. Call start(), or use it in a `with` statement."
            )
        return self._running


class _Running:
    """A server from its start to its stop."""

    def __init__(
        self,
        root: Path | None,
        host: str,
        port: int,
        token: str | None,
        conditions: Conditions,
    ) -> None:
        self.pid = os.getpid()
        self._temporary = root is None
        self._root = root or Path(tempfile.mkdtemp(prefix="local-replicate-"))
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = self._root.resolve()
        self._host, self._port = host, port
        self.conditions = conditions
        self._lock: IO[str] | None = None
        self._janitor: Janitor | None = None
        self._loop = asyncio.new_event_loop()
        self._service: Service | None = None
        self._stopping = asyncio.Event()
        self._up: Future[None] = Future()
        self._thread: threading.Thread | None = None
        self.token = token or ""
        self.files_secret = self.webhook_secret = ""

    @property
    def base_url(self) -> str:
        return self._address(self._host)

    def start(self) -> None:
        if self._temporary:
            from prefect_replicate.local.cog_worker import LEFTOVERS  # noqa: PLC0415 - as below

            self._janitor = Janitor(self._root, LEFTOVERS)
        self._lock = _lock(self._root)
        descriptors.raise_limit()
        address.withdraw(self._root)  # of a server that was killed
        self.token = keep_secret(self._root / "token", "r8_local_", self.token)
        self.files_secret = keep_secret(self._root / "files_secret", "files_local_")
        self.webhook_secret = keep_secret(self._root / "webhook_secret", "whsec_")
        listening = _listen(self._host, self._port)
        self._port = listening.getsockname()[1]
        # A daemon, since the interpreter waits for other threads before it lets us stop ours.
        self._thread = threading.Thread(
            target=self._live, args=[listening], name="local-replicate", daemon=True
        )
        self._thread.start()
        self._up.result(_PATIENCE)
        address.announce(self._root, self._address(_own(self._host)))

    def stop(self) -> None:
        if self._thread and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_PATIENCE)
            if self._thread.is_alive() and self._service:
                logger.warning("Local Replicate does not stop by itself; its models are killed")
                self._service.kill()
        if self._thread is None:
            self._loop.close()
        if self._lock:
            address.withdraw(self._root)
            _unlock(self._lock)
        if self._temporary:
            shutil.rmtree(self._root, ignore_errors=True)
        if self._janitor:
            self._janitor.dismiss()

    def push(self, folder: Path, name: Name, *, official: bool) -> str:
        return self.ask(self.service.push(folder, name, official=official))

    @property
    def service(self) -> Service:
        if self._service is None:
            raise LocalReplicateError("Local Replicate has stopped.")
        return self._service

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return asked.result()
        except CancelledError:
            raise LocalReplicateError("Local Replicate was stopped meanwhile.") from None
        except BaseException:
            asked.cancel()  # on Ctrl-C nobody waits for it any more
            raise

    def _address(self, host: str) -> str:
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def _live(self, listening: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(descriptors.Shortage())
        try:
            self._loop.run_until_complete(self._serve(listening))
        except BaseException as error:
            # Not raised here: start() raises it in the caller's thread.
            if not self._up.done():
                self._up.set_exception(error)
            else:
                logger.exception("Local Replicate broke off")
        finally:
            # A push that is under way in another thread must not wait for ever.
            for task in (left := asyncio.all_tasks(self._loop)):
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left, timeout=1))
            listening.close()
            self._loop.close()

    async def _serve(self, listening: socket.socket) -> None:
        import uvicorn  # noqa: PLC0415 - part of an extra, which start() has looked for

        from prefect_replicate.local.front import Front, Meter  # noqa: PLC0415 - the same
        from prefect_replicate.local.protocol import Protocol  # noqa: PLC0415 - the same
        from prefect_replicate.local.routes import application  # noqa: PLC0415 - the same
        from prefect_replicate.local.service import Service  # noqa: PLC0415 - the same
        from prefect_replicate.local.web import Gate  # noqa: PLC0415 - the same

        self._service = Service(
            self._root,
            self._address(_own(self._host)),
            files_secret=self.files_secret,
            webhook_secret=self.webhook_secret,
            token=self.token,
            conditions=self.conditions,
        )
        try:
            api = Meter(application(self._service), self.conditions)
            gate = Gate(api, self.token, self._host)
            config = uvicorn.Config(
                Front(gate, self._service.log, self.conditions),
                http=Protocol,
                date_header=False,  # which would be right even where it is to be wrong
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                ws="none",
                loop="asyncio",
                timeout_keep_alive=60,
                timeout_graceful_shutdown=1,
            )
            server = uvicorn.Server(config)
            # The socket listens already, so whoever connects now is answered in a moment.
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            self._up.set_result(None)
            await self._stopping.wait()
            # Ends whatever clients wait for, so that nobody has to be cut off.
            await self._service.halt()
            server.should_exit = True
            await serving
        finally:
            service, self._service = self._service, None
            await service.close()


def _check_engine() -> None:
    try:
        import aiohttp  # noqa: F401, PLC0415 - part of the same extra
        import coglet  # noqa: F401, PLC0415 - not on every system, and slow to import
        import jinja2  # noqa: F401, PLC0415 - part of the same extra
        import jsonschema  # noqa: F401, PLC0415 - part of the same extra
        import starlette  # noqa: F401, PLC0415 - part of the same extra
        import uvicorn  # noqa: F401, PLC0415 - part of the same extra
        import yaml  # noqa: F401, PLC0415 - part of the same extra
    except ImportError as error:
        raise LocalReplicateError(_UNAVAILABLE.format(reason=error)) from error


def _lock(root: Path) -> IO[str]:
    """Hold a folder for as long as the returned file is open.

    Raises:
        LocalReplicateError: Another server holds it.
    """
    import fcntl  # noqa: PLC0415 - not on Windows, where importing this module must do no harm

    file = (root / address.LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise LocalReplicateError(
            f"Another Local Replicate uses the folder {root}. Stop it, or choose another folder."
        ) from None
    return file


def _unlock(file: IO[str]) -> None:
    import fcntl  # noqa: PLC0415 - as above

    # Not by closing alone: a forked child may have a copy of the file.
    fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


def _own(host: str) -> str:
    """By which address this machine reaches a server that is bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - recognised, not bound


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only then; with it on, every
    # answer takes 40 ms more.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, OverflowError) as error:  # the second for a port above 65535
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise LocalReplicateError(f"Cannot listen on {host}:{port}: {reason}.") from error
    return listening
