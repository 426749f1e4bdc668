"""A server that stands before another one: what it lets through, a test says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.webhooks.conftest import serving

_OWN = {
    "host",
    "date",
    "server",
    "connection",
    "accept-encoding",
    "content-encoding",
    "content-length",
    "transfer-encoding",
}


@dataclass
class Proxy:
    """Forwards every request.

    Attributes:
        target: Where to.
        instead: Gives the answer to a request that is not to be forwarded.
        after: Gives another answer to a request that was forwarded.
        headers: Put into every request.
        struck: Requests that were answered otherwise than by the target.
    """

    target: str
    instead: Callable[[Request, bytes], Response | None] = lambda _, __: None
    after: Callable[[Request, bytes], Response | None] = lambda _, __: None
    headers: dict[str, str] = field(default_factory=dict)
    struck: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        body = await request.body()
        answer = self.instead(request, body)
        if answer is None:
            answer = await self._forwarded(request, body)
            if other := self.after(request, body):
                answer = other
        await answer(scope, receive, send)

    async def _forwarded(self, request: Request, body: bytes) -> Response:
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in _OWN
        }
        async with httpx.AsyncClient(timeout=60) as client:
            got = await client.request(
                request.method,
                f"{self.target}{request.url.path}",
                params=request.url.query or None,
                headers={**headers, **self.headers},
                content=body,
            )
        kept = {name: value for name, value in got.headers.items() if name not in _OWN}
        return Response(got.content, got.status_code, kept)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its own base URL."""
        with serving(self) as url:
            yield url
