"""The only door to Replicate: carries out a call, repeats what may be repeated, names what failed.

The token goes to the API's own host and nowhere else: requests are built from the base URL only,
redirects are not followed, and files are fetched by a second client that knows no token.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from prefect_replicate.api.calls import Call, multipart
from prefect_replicate.api.errors import ConfigurationError, NotFoundError, TransportError
from prefect_replicate.api.failures import failure, read
from prefect_replicate.api.retries import Answer, GiveUp, NoAnswer, Outcome, Policy, decide

T = TypeVar("T")

REPLICATE = "https://api.replicate.com"

# httpx's own pool takes time quadratic in its queue: 3,000 POSTs at once took 132 s, at most 8 in
# flight 7 s, which is seven times Replicate's limit for creates.
IN_FLIGHT = 8


@dataclass(frozen=True, slots=True)
class Access:
    """Which API, and whose money. The token is in no repr."""

    base_url: str
    token: str = field(repr=False)


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


class Client:
    """Replicate's API for one token. Belongs to the event loop that uses it first.

    Example:
        ```python
        async with Client(Access("https://api.replicate.com", token)) as client:
            account = await client.send(calls.account_get())
        ```
    """

    def __init__(
        self, access: Access, *, policy: Policy | None = None, in_flight: int = IN_FLIGHT
    ) -> None:
        self.base_url = api_url(access.base_url)
        self._policy = policy or Policy()
        self._free = asyncio.Semaphore(in_flight)
        timeout = httpx.Timeout(30.0, connect=5.0, pool=None)
        self._api = httpx.AsyncClient(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {access.token}", "User-Agent": "prefect-replicate"},
            timeout=timeout,
        )
        self._files = httpx.AsyncClient(timeout=timeout, follow_redirects=True)

    async def __aenter__(self) -> Self:
        """Use it as a context manager to close its connections."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._api.aclose()
        await self._files.aclose()

    async def send(self, call: Call[T]) -> T:
        """Carry out a call, repeating it where that cannot pay twice.

        Raises:
            BadInputError: 400, 409, 413, 422.
            AuthenticationError: 401, 403.
            BillingError: 402.
            NotFoundError: 404.
            RateLimitError: 429, for longer than the policy's patience.
            CreateUnknownError: The answer to a create was lost.
            TransportError: Any other call that got no usable answer.
        """
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._once(call)
            if isinstance(outcome, Answer) and 200 <= outcome.status < 300:
                return read(call, outcome, self.base_url)
            decision = decide(
                outcome,
                repeatable=call.repeatable,
                attempt=attempt,
                jitter=random.random(),  # noqa: S311 - spreads callers out; guards nothing
                now=datetime.now(UTC),
                policy=self._policy,
            )
            if isinstance(decision, GiveUp):
                raise failure(call, outcome, decision.verdict, self.base_url)
            await asyncio.sleep(decision.seconds)

    @asynccontextmanager
    async def download(self, url: str) -> AsyncIterator[httpx.Response]:
        """Open a file for streaming, without the token: outputs often lie on other hosts.

        Raises:
            NotFoundError: It is not there (any more).
            TransportError: No usable answer.
        """
        subject = f"file {url}"
        try:
            async with self._files.stream("GET", url) as response:
                if response.status_code in {403, 404, 410}:
                    raise NotFoundError(
                        f"{subject} is not there (HTTP {response.status_code}). Replicate removes "
                        f"outputs an hour after a prediction ends.",
                        status=response.status_code,
                    )
                if not response.is_success:
                    raise TransportError(
                        f"{subject} could not be fetched: HTTP {response.status_code}.",
                        status=response.status_code,
                    )
                yield response
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise TransportError(f"{subject} could not be fetched: {_words(error)}.") from error

    async def _once(self, call: Call[Any]) -> Outcome:
        content = multipart(call.upload) if call.upload else {}
        if call.body is not None:
            content["json"] = dict(call.body)
        async with self._free:
            try:
                async with asyncio.timeout(call.within):
                    response = await self._api.request(
                        call.method, call.path, headers=dict(call.headers), **content
                    )
            except TimeoutError:
                return NoAnswer(f"no answer within {call.within:.0f} s", sent=True)
            except httpx.TransportError as error:
                sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                return NoAnswer(_words(error), sent=sent)
        return Answer(response.status_code, response.headers, response.text)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
