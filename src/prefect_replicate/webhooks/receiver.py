"""The ASGI app that Replicate calls: verify, deduplicate, drop in the mailbox.

It keeps nothing, so any number of them can run behind a balancer. What it does not answer with
2xx Replicate sends again, a few times within about a minute; after that a waiter finds out by
polling. It believes nothing that is not signed, and reads no further into it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.logging.loggers import get_logger
from pydantic import Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from prefect_replicate.api.errors import ReplicateError, WebhookError
from prefect_replicate.api.resources import TERMINAL, Resource
from prefect_replicate.webhooks.mailbox import Address, Mail, address_of, post
from prefect_replicate.webhooks.signatures import TOLERANCE, verify

logger = get_logger("prefect_replicate")

# Bytes. A webhook is the whole job; its input may hold files as data: URIs.
MOST = 32_000_000
# Seconds for a whole answer. Replicate wants one soon, and sends again where there is none.
WITHIN = 8.0
# Seconds between fetches of the secret: whoever sends forgeries must not make us hammer the API.
REFRESH_EVERY = 60.0
# The same while there is no secret at all, as everything waits for it.
RETRY_EVERY = 5.0


class Receiver:
    """Receives webhooks at `.../{flow run id}/{mail key}`, whatever stands before.

    Mount it in any ASGI app, or serve it by itself. A GET of anything else says that it is up.

    Args:
        secret: Gives what webhooks are signed with; asked at first, and anew when a signature does
            not fit, since a secret can be rotated.
        tolerance: Seconds that the sender's clock may be off, at most 300.
        within: Seconds for a whole answer.
    """

    def __init__(
        self,
        secret: Callable[[], Awaitable[str]],
        *,
        tolerance: float = TOLERANCE,
        within: float = WITHIN,
    ) -> None:
        self._secret, self._tolerance, self._within = secret, tolerance, within
        self._live: _Live | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or open and close with the server that runs the app."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        try:
            answer = await self._bounded(Request(scope, receive))
        except ClientDisconnect:
            return  # There is nobody to answer to.
        await answer(scope, receive, send)

    async def _bounded(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(self._within):
                return await self._answer(request)
        except _Refused as error:
            refused = error
        except TimeoutError:
            refused = _Refused(503, f"Not done within {self._within:g} s. Send it again.")
        logger.warning("Webhook for %s refused: %s", _whom(request.url.path), refused)
        return PlainTextResponse(f"{refused}\n", refused.status, refused.headers)

    async def _answer(self, request: Request) -> Response:
        address = address_of(request.url.path)
        if request.method != "POST":
            return _other(request.method, at_mailbox=address is not None)
        if address is None:
            raise _Refused(404, "Webhooks go to .../{flow run id}/{mail key}.")
        body = await _body(request)
        live = self._here()
        await self._verify(live.secret, request, body)
        mail = _mail(body)
        if mail is None:
            return PlainTextResponse("Verified. Only the end of a job is kept.\n")
        return await _deliver(live, address, mail)

    async def _verify(self, secret: _Secret, request: Request, body: bytes) -> None:
        tried = await secret.get()
        try:
            try:
                verify(tried, request.headers, body, tolerance=self._tolerance)
            except WebhookError:
                newer = await secret.newer(tried)
                if newer is None:
                    raise
                verify(newer, request.headers, body, tolerance=self._tolerance)
        except WebhookError as error:
            raise _Refused(401, f"{error}"[:300]) from None
        except ReplicateError as error:
            raise _no_secret(error) from None

    def _here(self) -> _Live:
        """What belongs to the event loop that asks: a server may be started anew on another."""
        loop = asyncio.get_running_loop()
        if self._live is None or self._live.loop is not loop:
            self._live = _Live(loop, _Secret(self._secret))
        return self._live

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown" and self._live:
                live, self._live = self._live, None
                await live.aclose()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


class _Refused(Exception):
    """An answer that is not 2xx; its text goes to whoever asked and to the log, so no secrets."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = {"Retry-After": "5"} if status == 503 else {}


def _no_secret(error: ReplicateError) -> _Refused:
    # The error may name hosts and blocks of ours, which is nobody's business.
    logger.error("There is no secret to verify webhooks with: %s", error)
    return _Refused(503, "No secret to verify with. Send it again.")


class _Secret:
    """What webhooks are signed with, as last fetched."""

    def __init__(self, fetch: Callable[[], Awaitable[str]]) -> None:
        self._fetch = fetch
        self._last: str | None = None
        self._asked = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def get(self) -> str:
        """The secret, fetched if there is none yet.

        Raises:
            _Refused: There is none to be had now.
        """
        async with self._one_at_a_time:
            if self._last is None:
                if time.monotonic() < self._asked + RETRY_EVERY:
                    raise _Refused(503, "No secret to verify with. Send it again.")
                try:
                    self._last = await self._now()
                except ReplicateError as error:
                    raise _no_secret(error) from None
            return self._last

    async def newer(self, tried: str) -> str | None:
        """Another secret than the one that did not fit; None if there is none, or not yet again."""
        async with self._one_at_a_time:
            if self._last == tried and time.monotonic() >= self._asked + REFRESH_EVERY:
                try:
                    self._last = await self._now()
                except ReplicateError as error:
                    logger.warning("The webhook secret could not be fetched anew: %s", error)
            return self._last if self._last != tried else None

    async def _now(self) -> str:
        self._asked = time.monotonic()
        return await self._fetch()


@dataclass(slots=True, eq=False)
class _Live:
    """What is kept open from one request to the next."""

    loop: asyncio.AbstractEventLoop
    secret: _Secret
    _prefect: PrefectClient | None = None
    _entering: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def prefect(self) -> PrefectClient:
        """The client of the Prefect server that the process is set up for."""
        async with self._entering:
            if self._prefect is None:
                self._prefect = await get_client().__aenter__()
            return self._prefect

    async def aclose(self) -> None:
        if self._prefect:
            await self._prefect.__aexit__(None, None, None)


def _whom(path: str) -> str:
    address = address_of(path)
    return f"flow run {address.flow_run_id}" if address else f"{path[:100]!r}"


def _other(method: str, *, at_mailbox: bool) -> Response:
    if method in {"GET", "HEAD"} and not at_mailbox:
        return PlainTextResponse("Webhooks of Replicate are received here.\n")
    allow = "POST" if at_mailbox else "GET, HEAD"
    return PlainTextResponse(f"Only {allow} here.\n", 405, {"Allow": allow})


async def _body(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MOST:
            raise _Refused(413, f"More than {MOST} bytes.")
    return bytes(content)


class _Said(Resource, extra="ignore"):
    """What is read of a webhook's body. The rest is nothing to us, and may be large."""

    # It becomes part of the key of a flow-run input.
    id: str = Field(pattern=r"^[a-z0-9]{1,64}$")
    status: str
    metrics: dict[str, Any] = Field(default_factory=dict)


def _mail(body: bytes) -> Mail | None:
    """What to keep of a webhook: nothing before its job has ended, a waiter has no use for it."""
    try:
        said = _Said.model_validate_json(body)
    except ValidationError:
        raise _Refused(400, "The body is no prediction or training as JSON.") from None
    return Mail(said.id, said.status, said.metrics) if said.status in TERMINAL else None


async def _deliver(live: _Live, address: Address, mail: Mail) -> Response:
    try:
        new = await post(await live.prefect(), address, mail)
    except ObjectNotFound:
        raise _Refused(404, "There is no such flow run.") from None
    except httpx.HTTPError as error:
        logger.warning("The Prefect server does not take mail: %s", str(error) or repr(error))
        raise _Refused(503, "The mailbox cannot be reached. Send it again.") from None
    if new:
        told = (mail.id, mail.status, address.flow_run_id)
        logger.info("Job %r has ended (%s): flow run %s has mail", *told)
    return PlainTextResponse("Kept.\n" if new else "Known.\n")
