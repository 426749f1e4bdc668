"""The only door to Replicate: carries out a call, repeats what may be repeated, names what failed.

The token goes to the API's own host and nowhere else: requests are built from the base URL only,
redirects are not followed, and files are fetched by another client, which knows no token.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx

from prefect_replicate.api.calls import Call, account_get, multipart
from prefect_replicate.api.errors import (
    APIError,
    BadInputError,
    ConfigurationError,
    NotFoundError,
    TransportError,
)
from prefect_replicate.api.failures import failure, read
from prefect_replicate.api.limits import Budgets
from prefect_replicate.api.resources import Page, Resource
from prefect_replicate.api.retries import (
    Answer,
    Decision,
    GiveUp,
    NoAnswer,
    Outcome,
    Policy,
    RetryAfter,
    decide,
    judge,
    retry_after,
)
from prefect_replicate.api.transports import Transport, client_over

T = TypeVar("T")
R = TypeVar("R", bound=Resource)

REPLICATE = "https://api.replicate.com"

# httpx's own pool gets slower with its queue, so requests wait before it; `python -m
# tests.benchmarks` has both side by side. 8 are still many times Replicate's limit for creates.
IN_FLIGHT = 8

_TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=None)


@dataclass(frozen=True, slots=True)
class Access:
    """Which API, and whose money. The token is in no repr.

    Attributes:
        base_url: Of the API.
        token: It.
        saved_as: Where another process finds the same, if it is saved anywhere.
    """

    base_url: str
    token: str = field(repr=False)
    saved_as: str | None = field(default=None, compare=False)


class InterruptedCreate(asyncio.CancelledError):
    """The caller was cancelled while a create was on its way.

    The request was seen through all the same, since its job runs whether somebody waits or not.

    Attributes:
        result: The job that was created, or the error that says why there is none.
    """

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


def api_url(base_url: str) -> str:
    """The base of all paths, with /v1.

    The official clients read one and the same REPLICATE_BASE_URL with and without /v1, so both
    are understood.

    Raises:
        ConfigurationError: It is not an http or https URL.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(
            f"{base_url!r} is not the URL of an API. Write it like {REPLICATE}. Nothing was sent."
        )
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}/v1"


def told_time(headers: Mapping[str, str]) -> datetime | None:
    """What an answer says of the time, with its zone; None if it says nothing that is a time."""
    try:
        told = parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError, TypeError):
        return None
    return told if told.tzinfo else None


async def see_through(work: Coroutine[Any, Any, T]) -> T:
    """Let work end, however often the caller is cancelled meanwhile; then be cancelled.

    For what must not be left half done and ends by itself soon: a request on the wire, a file.
    """
    task = asyncio.ensure_future(work)
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            interruption = error
    if interruption:
        with suppress(Exception):
            task.result()
        raise interruption
    return task.result()


class Client:
    """Replicate's API for one token. Belongs to the event loop that uses it first.

    Args:
        access: Which API, and whose money.
        policy: How often and how long to try again.
        in_flight: How many requests may be on their way at once.
        transport: What carries them; "aiohttp" is an extra.
        budgets: How often to ask; Replicate's own limits if None.

    Raises:
        ConfigurationError: The base URL or the token cannot be one, or the transport is missing.

    Example:
        ```python
        async with Client(Access("https://api.replicate.com", token)) as client:
            account = await client.send(calls.account_get())
        ```
    """

    def __init__(
        self,
        access: Access,
        *,
        policy: Policy | None = None,
        in_flight: int = IN_FLIGHT,
        transport: Transport = "httpx",
        budgets: Budgets | None = None,
    ) -> None:
        self.base_url = api_url(access.base_url)
        self.saved_as = access.saved_as
        self._policy = policy or Policy()
        self._budgets = budgets or Budgets()
        self._free = asyncio.Semaphore(in_flight)
        self._heard: tuple[httpx.Headers, datetime] | None = None
        self._account: str | None = None
        self._http = client_over(
            transport,
            base_url=self.base_url,
            headers={
                "Authorization": f"Bearer {_checked(access.token)}",
                "User-Agent": "prefect-replicate",
            },
            timeout=_TIMEOUT,
        )

    async def __aenter__(self) -> Self:
        """Use it as a context manager to close its connections."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def send(self, call: Call[T], before: Callable[[], Awaitable[None]] | None = None) -> T:
        """Carry out a call, repeating it where that cannot pay twice.

        Args:
            call: What to do.
            before: Done right before each time that it is sent, when it is its turn; what that
                raises is raised, and nothing was sent.

        Raises:
            BadInputError: 400, 409, 413, 422, or a body that is not JSON.
            AuthenticationError: 401, 403.
            BillingError: 402.
            NotFoundError: 404.
            RateLimitError: 429, for longer than the policy's patience.
            CreateUnknownError: The answer to a create was lost.
            TransportError: Any other call that got no usable answer.
            InterruptedCreate: The caller was cancelled while a create was on its way.
        """
        body = _encoded(call)
        budget = self._budgets.of(call.operation)
        attempt = 0
        while True:
            attempt += 1
            await asyncio.sleep(budget.reserve(time.monotonic()))
            async with self._free:
                if before:
                    await before()
                outcome = await self._once(call, body)
            if isinstance(outcome, Answer) and outcome.status == 429:
                asked = retry_after(outcome, datetime.now(UTC))
                detail = str(outcome.body.get("detail", ""))
                budget.throttled(time.monotonic(), wait=asked, detail=detail)
            if isinstance(outcome, Answer) and 200 <= outcome.status < 300:
                return read(call, outcome, self.base_url)
            match self._decide(call, outcome, attempt):
                case GiveUp(verdict):
                    raise failure(call, outcome, verdict, self.base_url)
                case RetryAfter(seconds):
                    await asyncio.sleep(seconds)

    async def account(self) -> str:
        """Whose money, as "type username"; asked once.

        Raises:
            ReplicateError: As `send`.
        """
        if self._account is None:
            account = await self.send(account_get())
            self._account = f"{account.type} {account.username}"
        return self._account

    def now(self) -> datetime:
        """The time by the API's clock, as far as its last answer told."""
        now = datetime.now(UTC)
        if self._heard and (told := told_time(self._heard[0])):
            return told + (now - self._heard[1])
        return now

    async def pages(self, call: Call[Page[R]]) -> AsyncIterator[R]:
        """Everything in a list, page by page as it is asked for.

        Raises:
            ReplicateError: As `send`.
        """
        while True:
            page = await self.send(call)
            for one in page.results:
                yield one
            if not page.next:
                return
            # Only its path and query: the token goes to no host that an answer names.
            following = urlsplit(page.next)
            call = replace(
                call,
                path=following.path.rpartition("/v1")[2],
                params=dict(parse_qsl(following.query)),
            )

    async def first(self, call: Call[Page[R]], most: int) -> list[R]:
        """The first things in a list, at most so many.

        Raises:
            BadInputError: `most` is below 1.
            ReplicateError: As `send`.
        """
        if most < 1:
            raise BadInputError(f"A list has 1 thing at least, not {most}. Nothing was sent.")
        found: list[R] = []
        async for one in self.pages(call):
            found.append(one)
            if len(found) == most:
                break
        return found

    def _decide(self, call: Call[Any], outcome: Outcome, attempt: int) -> Decision:
        return decide(
            outcome,
            repeatable=call.repeatable,
            attempt=attempt,
            jitter=random.random(),  # noqa: S311 - spreads callers out; guards nothing
            now=datetime.now(UTC),
            policy=self._policy,
        )

    async def _once(self, call: Call[Any], body: bytes | None) -> Outcome:
        if not call.creates_job:
            return await self._exchange(call, body)
        outcomes: list[Outcome] = []

        async def exchange() -> None:
            outcomes.append(await self._exchange(call, body))

        try:
            await see_through(exchange())
        except asyncio.CancelledError:
            raise InterruptedCreate(self._result(call, outcomes[0])) from None
        return outcomes[0]

    def _result(self, call: Call[T], outcome: Outcome) -> T | APIError:
        try:
            if isinstance(outcome, Answer) and 200 <= outcome.status < 300:
                return read(call, outcome, self.base_url)
        except APIError as error:
            return error
        verdict = judge(outcome, repeatable=call.repeatable)
        return failure(call, outcome, verdict, self.base_url)

    async def _exchange(self, call: Call[Any], body: bytes | None) -> Outcome:
        content: dict[str, Any] = multipart(call.upload) if call.upload else {"content": body}
        headers = ({"Content-Type": "application/json"} if body else {}) | dict(call.headers)
        params = {name: value for name, value in call.params.items() if value is not None}
        try:
            async with asyncio.timeout(call.within):
                response = await self._http.request(
                    call.method, call.path, params=params, headers=headers, **content
                )
        except TimeoutError:
            return NoAnswer(f"no answer within {call.within:.0f} s", sent=True)
        except httpx.RequestError as error:
            return NoAnswer(_words(error), sent=not isinstance(error, _NEVER_SENT))
        if "date" in response.headers:
            self._heard = response.headers, datetime.now(UTC)
        return Answer(response.status_code, response.headers, response.text, response.content)


# Errors that are raised before the first byte of a request has left.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.LocalProtocolError,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class Downloads:
    """Fetches files and streams, without any token: they come from other hosts than the API."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=True)
        # Streams are open for minutes: they must not take up the connections of files.
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._streams = httpx.AsyncClient(limits=unlimited, follow_redirects=True)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()
        await self._streams.aclose()

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[httpx.Response]:
        """Open a file for streaming.

        Raises:
            NotFoundError: It is not there (any more).
            TransportError: No usable answer, or not all of it.
        """
        try:
            async with self._http.stream("GET", url) as response:
                if response.status_code in {403, 404, 410}:
                    raise NotFoundError(
                        f"File {url} is not there (HTTP {response.status_code}). Replicate removes "
                        f"outputs an hour after a prediction ends.",
                        status=response.status_code,
                    )
                if not response.is_success:
                    raise TransportError(
                        f"File {url} could not be fetched: HTTP {response.status_code}.",
                        status=response.status_code,
                    )
                yield response
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise TransportError(f"File {url} could not be fetched: {_words(error)}.") from error

    @asynccontextmanager
    async def listen(
        self, url: str, after: str | None, idle: float
    ) -> AsyncIterator[httpx.Response]:
        """Open a stream of events, whatever its status.

        Args:
            url: Where it is.
            after: Id of the last event that is known already.
            idle: Seconds without a byte after which it counts as lost.

        Raises:
            TransportError: No answer, or it was cut off.
        """
        headers = {
            "Accept": "text/event-stream",
            "Cache-Control": "no-store",
            # Compression would hold events back.
            "Accept-Encoding": "identity",
        } | ({"Last-Event-ID": after} if after else {})
        # Bytes, since an id may have any characters.
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        timeout = httpx.Timeout(idle, connect=5.0, pool=None)
        opened = self._streams.stream("GET", url, headers=encoded, timeout=timeout)
        try:
            async with opened as response:
                yield response
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise TransportError(_words(error)) from error


def _checked(token: str) -> str:
    """The token as it can stand in a header; secrets read from files often end with a line break.

    Raises:
        ConfigurationError: It cannot stand there. The message does not show it.
    """
    stripped = token.strip()
    if not re.fullmatch(r"[\x21-\x7e]+", stripped):
        raise ConfigurationError(
            "The API token is empty, or has spaces or characters that no token has. Check where it "
            "comes from; it is not shown here. Nothing was sent."
        )
    return stripped


def _encoded(call: Call[Any]) -> bytes | None:
    if call.body is None:
        return None
    if isinstance(call.body, str):
        return call.body.encode()
    try:
        return json.dumps(dict(call.body), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise BadInputError(
            f"{call.doing[:1].upper()}{call.doing[1:]} needs JSON, and its input is none: {error}. "
            f"Files go through `upload_file`, as the `.urls.get` of what it returns. Nothing was "
            f"sent."
        ) from error


def _words(error: Exception) -> str:
    """What went wrong. An error about a malformed header quotes it, and one holds the token."""
    if isinstance(error, httpx.LocalProtocolError):
        return "the request was malformed"
    return str(error) or type(error).__name__
