"""A server that answers from a script: real sockets, for what a well-behaved server never does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from prefect_replicate.api.client import Access, Client, Downloads
from prefect_replicate.api.retries import Policy

TOKEN = "r8_a_token_that_must_never_be_seen_again"
CUT = b""
FAST = Policy(attempts=3, base=0.001, cap=0.002, patience=1)


def answer(status: int, body: str = "{}", *headers: str) -> bytes:
    """One HTTP answer as bytes."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body.encode())}", *headers, "", body]
    return "\r\n".join(lines).encode()


@dataclass
class Script:
    """What to answer, in order and after a pause, and what was asked.

    An empty answer cuts the connection.
    """

    base_url: str = ""
    answers: list[bytes] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    pause: float = 0.0
    pauses: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def lines(self) -> list[str]:
        """The request lines that arrived."""
        return [request.split(b"\r\n", 1)[0].decode() for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection, until the script says to cut it."""
        while head := await _head(reader):
            length = _content_length(head)
            self.requests.append(head + await reader.readexactly(length))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            await asyncio.sleep(self.pauses.pop(0) if self.pauses else self.pause)
            self.at_once -= 1
            if not (said := self.answers.pop(0)):
                break
            writer.write(said)
            if b"Connection: close" in said:
                break
        writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    """A scripted server on a free loopback port."""
    it = Script()
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield it
    server.close()


@pytest.fixture
async def client(script: Script) -> AsyncIterator[Client]:
    """A client of the scripted server that does not wait long between attempts."""
    async with Client(Access(script.base_url, TOKEN), policy=FAST) as client:
        yield client


@pytest.fixture
async def downloads() -> AsyncIterator[Downloads]:
    """What fetches files, without a token."""
    it = Downloads()
    yield it
    await it.aclose()
