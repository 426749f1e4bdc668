"""httpx and aiohttp: what must hold whichever carries the requests, down to the bytes."""

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from ssl import SSLError
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
import pytest

from prefect_replicate.api import calls
from prefect_replicate.api.client import Access, Client
from prefect_replicate.api.errors import ConfigurationError, CreateUnknownError, TransportError
from prefect_replicate.api.over_aiohttp import failure_kind
from prefect_replicate.api.transports import Transport, client_over
from tests.api.conftest import CUT, FAST, TOKEN, Script, answer

PREDICTION = '{"id": "abc", "status": "starting"}'
STORED = '{"id": "f", "urls": {"get": "https://x"}}'
CREATE = calls.predictions_create("a" * 64, {"prompt": "hi"})
MEGABYTE = 1 << 20

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def serving(talk: Talk, transport: Transport) -> AsyncIterator[Client]:
    """A client of a server that talks like this on every connection."""
    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    access = Access(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", TOKEN)
    async with Client(access, policy=FAST, transport=transport) as client:
        yield client
    listening.close()


async def request_of(reader: asyncio.StreamReader) -> None:
    """Read the head of a request, and what has come of its body."""
    await reader.readuntil(b"\r\n\r\n")
    await reader.read(MEGABYTE)


async def test_a_create_that_is_lost_on_a_connection_used_before_is_sent_once(
    script: Script, client: Client
) -> None:
    script.answers = [answer(201, PREDICTION), CUT, answer(201, PREDICTION)]
    await client.send(CREATE)
    with pytest.raises(CreateUnknownError):
        await client.send(CREATE)
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    "torn",
    [
        b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\n{",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\nConnection: close",
    ],
    ids=["cut", "cut chunk", "no chunk", "no HTTP"],
)
async def test_a_create_whose_answer_is_torn_may_have_been_made(
    script: Script, client: Client, torn: bytes
) -> None:
    script.answers = [torn]
    with pytest.raises(CreateUnknownError, match="may cost money"):
        await client.send(CREATE)
    assert len(script.requests) == 1


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"])
async def test_a_create_whose_connection_is_reset_may_have_been_made(
    transport: Transport, said: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(said)
        await asyncio.sleep(0.05)
        writer.transport.abort()

    async with serving(talk, transport) as client:
        with pytest.raises(CreateUnknownError):
            await client.send(CREATE)


async def test_a_connection_that_the_server_gave_up_is_not_used_for_a_create(
    transport: Transport,
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(answer(201, PREDICTION))
        await asyncio.sleep(0.05)
        writer.close()

    async with serving(talk, transport) as client:
        for _ in range(3):
            assert (await client.send(CREATE)).id == "abc"
            await asyncio.sleep(0.1)


async def test_a_proxy_in_the_environment_is_used(
    script: Script, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", script.base_url)
    script.answers = [answer(201, PREDICTION)]
    async with Client(Access("http://api.example", TOKEN), transport=transport) as client:
        assert (await client.send(CREATE)).id == "abc"
    assert script.lines == ["POST http://api.example/v1/predictions HTTP/1.1"]


async def test_a_proxy_that_refuses_means_that_nothing_was_sent_and_has_not_seen_the_token(
    script: Script, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", script.base_url)
    script.answers = [answer(407, "", "Connection: close")] * FAST.attempts
    access = Access("https://api.example", TOKEN)
    async with Client(access, policy=FAST, transport=transport) as client:
        with pytest.raises(TransportError, match="No job was made"):
            await client.send(CREATE)
    assert script.lines[0] == "CONNECT api.example:443 HTTP/1.1"
    assert TOKEN.encode() not in b"".join(script.requests)


async def test_both_send_the_same_headers_and_the_token_in_one_of_them(script: Script) -> None:
    heads: dict[str, set[bytes]] = {}
    for transport in ("httpx", "aiohttp"):
        script.answers = [answer(201, PREDICTION, "Set-Cookie: a=b"), answer(201, PREDICTION)]
        chosen: Transport = transport
        async with Client(Access(script.base_url, TOKEN), transport=chosen) as client:
            for _ in range(2):
                await client.send(CREATE)
        last = script.requests[-1]
        assert last.count(TOKEN.encode()) == 1
        head = last.partition(b"\r\n\r\n")[0].split(b"\r\n")
        heads[transport] = {
            line.partition(b":")[0].lower() + line.partition(b":")[2] for line in head
        }
    assert heads["httpx"] == heads["aiohttp"]


class Endless(io.RawIOBase):
    """A file of this many bytes that holds none of them."""

    def __init__(self, size: int) -> None:
        self.size, self.at, self.most = size, 0, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = (0, self.at, self.size)[whence] + offset
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int = -1) -> bytes:
        count = self.size - self.at if size < 0 else min(size, self.size - self.at)
        self.at, self.most = self.at + count, max(self.most, count)
        return bytes(count)


async def test_a_file_is_sent_in_pieces_and_no_faster_than_it_is_taken(
    transport: Transport,
) -> None:
    file = Endless(64 * MEGABYTE)
    read_ahead: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await asyncio.sleep(0.3)
        read_ahead.append(file.at)
        left = int(head.partition(b"content-length:")[2].split()[0])
        while left:
            left -= len(await reader.read(MEGABYTE))
        writer.write(answer(201, STORED))

    upload = calls.Upload(file, "f")  # type: ignore[arg-type] # it is a BinaryIO by its methods
    async with serving(talk, transport) as client:
        stored = await client.send(calls.files_create(upload))
    assert stored.id == "f"
    # What the kernel keeps for both ends of a connection is a few megabytes.
    assert read_ahead[0] < 24 * MEGABYTE
    assert file.most <= MEGABYTE


async def test_closing_a_client_closes_its_connections(transport: Transport) -> None:
    closed = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(answer(201, PREDICTION))
        assert await reader.read() == b""
        closed.set()

    async with serving(talk, transport) as client:
        await client.send(CREATE)
        assert not closed.is_set()
        await client.aclose()
        async with asyncio.timeout(5):
            await closed.wait()


def test_without_the_extra_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "httpx_aiohttp", None)
    monkeypatch.delitem(sys.modules, "prefect_replicate.api.over_aiohttp")
    with pytest.raises(ConfigurationError, match=r"pip install 'prefect-replicate\[aiohttp\]'"):
        client_over("aiohttp")


KEY: Any = SimpleNamespace(host="h", port=1, ssl=True, proxy=None)
INFO: Any = SimpleNamespace(real_url="http://h")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (aiohttp.ClientConnectorError(KEY, OSError(111, "refused")), httpx.ConnectError),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(8, "no such name")), httpx.ConnectError),
        (aiohttp.ClientConnectorSSLError(KEY, SSLError(1, "no TLS")), httpx.ConnectError),
        (aiohttp.ClientProxyConnectionError(KEY, OSError(111, "refused")), httpx.ConnectError),
        (aiohttp.ConnectionTimeoutError("to connect"), httpx.ConnectTimeout),
        (aiohttp.ClientHttpProxyError(INFO, ()), httpx.ProxyError),
        (aiohttp.InvalidURL("h"), httpx.UnsupportedProtocol),
        (aiohttp.SocketTimeoutError("to read"), httpx.ReadTimeout),
        (aiohttp.ServerTimeoutError(), httpx.ReadTimeout),
        (aiohttp.ServerDisconnectedError(), httpx.ReadError),
        (aiohttp.ClientConnectionResetError(), httpx.ReadError),
        (aiohttp.ClientOSError(104, "reset"), httpx.ReadError),
        (aiohttp.ClientPayloadError(), httpx.ReadError),
        (aiohttp.ClientError(), httpx.ReadError),
        (aiohttp.ClientResponseError(INFO, ()), httpx.RemoteProtocolError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_failure_of_aiohttp_is_named_as_httpx_would(
    said: aiohttp.ClientError, meant: type[httpx.RequestError]
) -> None:
    assert failure_kind(said) is meant
    mapped = httpx.ConnectTimeout("as httpx-aiohttp names it")
    mapped.__cause__ = said
    assert failure_kind(mapped) is meant


def test_a_failure_of_httpx_itself_stays_what_it_is() -> None:
    assert failure_kind(httpx.DecodingError("torn")) is httpx.DecodingError
