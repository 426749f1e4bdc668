"""A server that answers from a script: real sockets, for what a well-behaved server never does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from prefect_replicate.api.client import Access, Client, Downloads
from prefect_replicate.api.retries import Policy
from prefect_replicate.api.transports import Transport

TOKEN = "r8_a_token_that_must_never_be_seen_again"
CUT = b""
EVENTS = "Content-Type: text/event-stream"
FAST = Policy(attempts=3, base=0.001, cap=0.002, patience=1)


def answer(status: int, body: str = "{}", *headers: str) -> bytes:
    """One HTTP answer as bytes."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body.encode())}", *headers, "", body]
    return "\r\n".join(lines).encode()


def stream(body: str | bytes, *headers: str, status: int = 200) -> bytes:
    """An answer of server-sent events, whose connection is closed behind it."""
    kind = "" if any(line.startswith("Content-Type") for line in headers) else EVENTS
    lines = [f"HTTP/1.1 {status} Said", kind, "Connection: close", *headers]
    head = "\r\n".join(line for line in lines if line) + "\r\n\r\n"
    return head.encode() + (body if isinstance(body, bytes) else body.encode())


@dataclass
class Script:
    """What to answer, in order and after a pause, and what was asked.

    An empty answer cuts the connection. `trickle` is what is sent at once of an answer, in bytes.
    """

    base_url: str = ""
    answers: list[bytes] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    pause: float = 0.0
    pauses: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    connections: int = 0
    trickle: int = 0

    @property
    def lines(self) -> list[str]:
        """The request lines that arrived."""
        return [request.split(b"\r\n", 1)[0].decode() for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection, until the script says to cut it."""
        self.connections += 1
        while head := await _head(reader):
            length = _content_length(head)
            self.requests.append(head + await reader.readexactly(length))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            await asyncio.sleep(self.pauses.pop(0) if self.pauses else self.pause)
            self.at_once -= 1
            if not (said := self.answers.pop(0)):
                break
            step = self.trickle or len(said)
            for start in range(0, len(said), step):
                writer.write(said[start : start + step])
                await writer.drain()
                await asyncio.sleep(0)
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


@pytest.fixture(params=["httpx", "aiohttp"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Each of what can carry requests; what holds for one holds for the other."""
    if request.param == "aiohttp":
        pytest.importorskip("httpx_aiohttp", reason="the extra 'aiohttp' is not installed")
    chosen: Transport = request.param
    return chosen


@pytest.fixture
async def client(script: Script, transport: Transport) -> AsyncIterator[Client]:
    """A client of the scripted server that does not wait long between attempts."""
    access = Access(script.base_url, TOKEN)
    async with Client(access, policy=FAST, transport=transport) as client:
        yield client


@pytest.fixture
async def downloads() -> AsyncIterator[Downloads]:
    """What fetches files, without a token."""
    it = Downloads()
    yield it
    await it.aclose()
