"""Every request that the server received, so that a test can count what was really asked.

In memory only, since a body may hold a secret of the user's, and only the newest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

MOST = 10_000
MOST_BYTES = 16_000_000  # of bodies altogether
LONGEST = 64 * 1024  # bytes of one body
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(eq=False, slots=True)
class Received:
    """A request, and what it was answered.

    Attributes:
        number: Counts all requests since the start.
        time: When it came, by the server's clock.
        method: Upper case.
        path: As asked for, with /v1 if it had that, without the query.
        query: Behind the question mark, as it was.
        headers: Names in lower case; without the token.
        body: Its first 64 KiB.
        size: Bytes of the whole body, as far as they were read.
        status: Of the answer; None if there was none.
        fault: What was made to go wrong with it.
    """

    number: int
    time: datetime
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = b""
    size: int = 0
    status: int | None = None
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """It, with the body as text."""
        return {
            "number": self.number,
            "time": self.time.isoformat(),
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "headers": self.headers,
            "body": self.body.decode(errors="replace"),
            "size": self.size,
            "status": self.status,
            "fault": self.fault,
        }


class RequestLog:
    """The newest requests, oldest first.

    Args:
        token: What is to be kept out of it.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._kept: deque[Received] = deque()
        self._bytes = self._count = 0

    def begin(
        self, time: datetime, method: str, path: str, query: bytes, headers: Mapping[str, str]
    ) -> Received:
        """Note a request that has just come."""
        self._count += 1
        shown = {
            name: self._without_token(value)
            for name, value in headers.items()
            if name not in _SECRET
        }
        path, asked = self._without_token(path), self._without_token(query.decode("latin-1"))
        received = Received(self._count, time, method, path, asked, shown)
        self._kept.append(received)
        self._trim()
        return received

    def add_body(self, received: Received, chunk: bytes) -> None:
        """Note more of its body."""
        received.size += len(chunk)
        if not self._kept or received.number < self._kept[0].number:
            return  # it came so long ago that it is forgotten
        before = len(received.body)
        received.body += chunk[: LONGEST - before]
        if self._token in received.body:
            received.body = received.body.replace(self._token, b"...")
        self._bytes += len(received.body) - before
        self._trim()

    def _trim(self) -> None:
        while len(self._kept) > MOST or self._bytes > MOST_BYTES:
            self._bytes -= len(self._kept.popleft().body)

    def find(self, method: str | None = None, path: str | None = None) -> list[Received]:
        """Those of a method and a path, which is taken without /v1."""
        wanted = path and without_version(self._without_token(path))
        return [
            each
            for each in self._kept
            if method in {None, each.method} and wanted in {None, without_version(each.path)}
        ]

    def clear(self) -> None:
        """Forget them all."""
        self._kept.clear()
        self._bytes = 0

    def _without_token(self, text: str) -> str:
        token = self._token.decode()
        return text.replace(token, "...").replace(quote(token, safe=""), "...")


def without_version(path: str) -> str:
    """A path without the /v1 that clients may put before it, even twice."""
    while path.startswith("/v1/"):
        path = path.removeprefix("/v1")
    return path
