"""httpx's interface over aiohttp. Import it through `api.transports`: aiohttp is an extra.

httpx-aiohttp 0.2 names a connection that was lost with the request on it, or in the middle of an
answer, as it names one that could not be made (`ConnectTimeout`), and lets some of aiohttp's errors
through as they are. Whoever decides whether to create a job again must know which it was, so every
failure is named anew here, by what aiohttp itself said.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import HttpxAiohttpClient


class OverAiohttp(HttpxAiohttpClient):
    """An `httpx.AsyncClient` whose requests aiohttp carries."""

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """As `httpx.AsyncClient.send`.

        Raises:
            httpx.RequestError: As httpx itself would raise it.
        """
        try:
            return await super().send(request, **options)
        except (httpx.RequestError, aiohttp.ClientError) as error:
            kind, words = failure_kind(error), _words(error)
            raise kind(words, request=request) from error


# The first that fits counts: what was certainly not sent stands first.
_KINDS: tuple[tuple[type[aiohttp.ClientError], type[httpx.RequestError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ClientHttpProxyError, httpx.ProxyError),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.ClientError, httpx.ReadError),
)


def failure_kind(error: httpx.RequestError | aiohttp.ClientError) -> type[httpx.RequestError]:
    """What httpx calls this failure. One that it has no better name for may have been sent."""
    cause = _cause(error)
    own = type(error) if isinstance(error, httpx.RequestError) else httpx.ReadError
    return next((kind for said, kind in _KINDS if isinstance(cause, said)), own)


def _cause(error: httpx.RequestError | aiohttp.ClientError) -> BaseException | None:
    return error.__cause__ if isinstance(error, httpx.RequestError) else error


def _words(error: httpx.RequestError | aiohttp.ClientError) -> str:
    cause = _cause(error)
    if isinstance(cause, aiohttp.ClientConnectorError):
        # Its own words show the address of an SSL context in memory.
        return str(cause.os_error)
    return str(error) or type(cause or error).__name__
