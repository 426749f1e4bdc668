"""Signed webhooks: clients hear of their runs without asking.

A message is the state of a run, so what waits for a slow receiver is replaced by what is newer: at
most three messages of a run are on their way or wait. Only the one about the end is insisted on.
What goes wrong with them on purpose goes wrong here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
from starlette.responses import JSONResponse

from prefect_replicate.local.conditions import Conditions
from prefect_replicate.local.records import Run
from prefect_replicate.webhooks.signatures import sign

EVENTS = ("start", "output", "logs", "completed")
DEFAULT = frozenset({"output", "completed"})
# Seconds between messages about new output or logs.
INTERVAL = 0.5
_PATIENCE = 10.0  # seconds that a receiver may take to answer
_AT_ONCE = 1000  # receivers that hang hold a place each, for as long as that
_FORGER = "whsec_Zm9yZ2Vkd2l0aGFub3RoZXJzZWNyZXQ="
_LAST_PORT = 65535

State = dict[str, Any]

logger = logging.getLogger(__name__)


def is_deliverable(url: str, *, secure: bool = False) -> bool:
    """Whether webhooks can be sent there: https, or http unless it must be secure, and a host."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    named = bool(parts.host) and (parts.port or 0) <= _LAST_PORT
    return parts.scheme in ({"https"} if secure else {"http", "https"}) and named


class Webhooks:
    """Delivers the messages of all runs.

    Args:
        secret: What they are signed with, "whsec_" and base64.
        transport: Carries them. A bare one: no redirects, no proxy, and answers are not read.
        conditions: When the last message of a run is tried again, and what goes wrong.
    """

    def __init__(
        self, secret: str, transport: httpx.AsyncBaseTransport, conditions: Conditions
    ) -> None:
        self.secret, self._transport, self.conditions = secret, transport, conditions
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def hook(self, run: Run, show: Callable[[], State]) -> Hook | None:
        """What tells of a run, if its client asked for that; `show` gives the run as JSON."""
        events = frozenset(run.webhook_events or DEFAULT)
        return Hook(self, run, run.webhook, events, show) if run.webhook else None

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

    async def post(self, url: str, state: State, copies: int = 1) -> str | None:
        """Send a message once, or in copies; why it was not taken, or None."""
        message_id, body = _new_message_id(), _body(state)
        for _ in range(copies - 1):
            await self._attempt(url, message_id, body)
        return await self._attempt(url, message_id, body)

    async def forge(self, url: str, state: State) -> None:
        """Send what somebody else might, who does not know the secret."""
        lie = {**state, "status": "succeeded", "error": None, "output": "forged"}
        await self._attempt(url, _new_message_id(), _body(lie), _FORGER)

    async def insist(self, url: str, state: State, copies: int = 1) -> str | None:
        """Send a message until it is taken; why it never was, or None."""
        message_id, body = _new_message_id(), _body(state)
        for _ in range(copies - 1):
            await self._attempt(url, message_id, body)
        loop = asyncio.get_running_loop()
        start = loop.time()
        failure = await self._attempt(url, message_id, body)
        for after in self.conditions.behaviour.webhook_retries:
            if failure is None:
                break
            await asyncio.sleep(start + after - loop.time())
            failure = await self._attempt(url, message_id, body)
        return failure

    async def _attempt(
        self, url: str, message_id: str, body: bytes, secret: str | None = None
    ) -> str | None:
        async with self._slots:
            headers = sign(secret or self.secret, message_id, self.conditions.now(), body)
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
        self._held: list[State] = []
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
            await self._send("start", begun)
            return True
        if self._completed.is_set():  # which says all that the others would
            await self._send("completed", self._show())
            for state in self._held:  # out of order on purpose
                self._report(await self._webhooks.post(self._url, state))
            return False
        if self._progress and await self._may_speak() and not self._completed.is_set():
            self._progress = False
            self._quiet_until = asyncio.get_running_loop().time() + INTERVAL
            await self._send("output", self._show())
            return True
        return self._completed.is_set()

    async def _send(self, event: str, state: State) -> None:
        webhooks, copies = self._webhooks, 1
        fault = webhooks.conditions.strike("webhook", model=self._run.model, event=event)
        match fault.kind if fault else None:
            case "lose":
                return
            case "reorder" if event != "completed":
                self._held.append(state)
                return
        if fault:
            await asyncio.sleep(fault.seconds)
            copies = fault.copies if fault.kind == "repeat" else 1
            if fault.kind == "forge":
                await webhooks.forge(self._url, state)
                if fault.instead:
                    return
        deliver = webhooks.insist if event == "completed" else webhooks.post
        self._report(await deliver(self._url, state, copies))

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
