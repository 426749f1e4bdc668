"""Signed webhooks: clients hear of their runs without asking.

A message is the state of a run, so what waits for a slow receiver is replaced by what is newer: at
most three messages of a run are on their way or wait. Only the one about the end is insisted on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
from starlette.responses import JSONResponse

from prefect_replicate.local.records import Run
from prefect_replicate.webhooks.signatures import sign

EVENTS = ("start", "output", "logs", "completed")
DEFAULT = frozenset({"output", "completed"})
# Seconds after a run's end at which its last message is tried again.
RETRIES = (1.0, 3.0, 7.0, 15.0, 31.0, 61.0)
# Seconds between messages about new output or logs.
INTERVAL = 0.5
_PATIENCE = 10.0  # seconds that a receiver may take to answer
_AT_ONCE = 64
_LAST_PORT = 65535

State = dict[str, Any]

logger = logging.getLogger(__name__)


def is_deliverable(url: str) -> bool:
    """Whether webhooks can be sent there: http or https, and a host."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    named = bool(parts.host) and (parts.port or 0) <= _LAST_PORT
    return parts.scheme in {"http", "https"} and named


class Webhooks:
    """Delivers the messages of all runs.

    Args:
        secret: What they are signed with, "whsec_" and base64.
        transport: Carries them. A bare one: no redirects, no proxy, and answers are not read.
        retries: Seconds after a run's end at which its last message is tried again.
    """

    def __init__(
        self, secret: str, transport: httpx.AsyncBaseTransport, retries: Sequence[float] = RETRIES
    ) -> None:
        self.secret, self._transport, self._retries = secret, transport, retries
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def hook(self, run: Run, show: Callable[[], State]) -> Hook | None:
        """What tells of a run, if its client asked for that; `show` gives the run as JSON."""
        url = run.echo.get("webhook")
        events = run.echo.get("webhook_events_filter") or DEFAULT
        return Hook(self, run, url, frozenset(events), show) if url else None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Deliver in the background, unless the server stops."""
        if self._closed:
            work.close()
            return None
        task = asyncio.create_task(work, name="webhook")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Drop what is not delivered yet."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def post(self, url: str, state: State) -> str | None:
        """Send a message once; why it was not taken, or None."""
        return await self._attempt(url, _new_message_id(), _body(state))

    async def insist(self, url: str, state: State) -> str | None:
        """Send a message until it is taken; why it never was, or None."""
        message_id, body = _new_message_id(), _body(state)
        loop = asyncio.get_running_loop()
        start = loop.time()
        failure = await self._attempt(url, message_id, body)
        for after in self._retries:
            if failure is None:
                break
            await asyncio.sleep(start + after - loop.time())
            failure = await self._attempt(url, message_id, body)
        return failure

    async def _attempt(self, url: str, message_id: str, body: bytes) -> str | None:
        async with self._slots:
            headers = sign(self.secret, message_id, datetime.now(UTC), body)
            headers |= {"Content-Type": "application/json", "User-Agent": "Local Replicate"}
            request = httpx.Request("POST", url, content=body, headers=headers)
            try:
                async with asyncio.timeout(_PATIENCE):
                    response = await self._transport.handle_async_request(request)
                    await response.aclose()
            except TimeoutError:
                return f"no answer within {_PATIENCE:g} s"
            # What a name can do to the resolver is no transport error: ValueError.
            except (httpx.TransportError, OSError, ValueError) as error:
                return str(error) or type(error).__name__
        if response.is_redirect:
            logger.warning("A webhook was answered with a redirect, which is not followed")
        return f"status {response.status_code}" if response.is_error else None


class Hook:
    """Tells one client of one run: in order, and not too often.

    Args:
        webhooks: Carries the messages.
        run: Whose they are.
        url: Where they go.
        events: Of which the client wants to hear.
        show: The run as JSON, as it is when called.
    """

    def __init__(
        self,
        webhooks: Webhooks,
        run: Run,
        url: str,
        events: frozenset[str],
        show: Callable[[], State],
    ) -> None:
        self._webhooks, self._run, self._url = webhooks, run, url
        self._events, self._show = events, show
        self._begun: State | None = None
        self._progress = False
        self._completed = asyncio.Event()
        self._quiet_until = 0.0
        self._task: asyncio.Task[None] | None = None

    def tell(self, event: str) -> None:
        """Note that something happened; returns at once, and never raises."""
        if event not in self._events:
            return
        if event == "start":
            self._events -= {"start"}  # a model that begins once more has been announced
            self._begun = self._show()
        elif event == "completed":
            self._events = frozenset()
            self._completed.set()
        else:
            self._progress = True
        if self._task is None or self._task.done():
            self._task = self._webhooks.spawn(self._deliver())

    async def _deliver(self) -> None:
        try:
            while await self._deliver_next():
                pass
        except Exception:
            logger.exception("The webhook of %s %s broke off", self._run.kind, self._run.id)

    async def _deliver_next(self) -> bool:
        """Deliver what has waited longest; whether there was anything that is not the end."""
        if begun := self._begun:
            self._begun = None
            self._report(await self._webhooks.post(self._url, begun))
            return True
        if self._completed.is_set():  # which says all that the others would
            self._report(await self._webhooks.insist(self._url, self._show()))
            return False
        if self._progress and await self._may_speak() and not self._completed.is_set():
            self._progress = False
            self._quiet_until = asyncio.get_running_loop().time() + INTERVAL
            self._report(await self._webhooks.post(self._url, self._show()))
            return True
        return self._completed.is_set()

    async def _may_speak(self) -> bool:
        """Wait for the next moment for new output or logs; False if the end comes before it."""
        try:
            async with asyncio.timeout_at(self._quiet_until):
                await self._completed.wait()
        except TimeoutError:
            return True
        return False

    def _report(self, failure: str | None) -> None:
        if failure:
            # Not the URL, which often holds a secret.
            logger.warning(
                "A webhook of %s %s was not taken: %s", self._run.kind, self._run.id, failure
            )


def _body(state: State) -> bytes:
    """Exactly as a GET would answer."""
    return bytes(JSONResponse(state).body)


def _new_message_id() -> str:
    return f"msg_{secrets.token_hex(16)}"
