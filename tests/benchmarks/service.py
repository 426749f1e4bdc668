"""A stand-in for Replicate that is faster than any client: creates and reads, and nothing else.

Not Local Replicate: that runs models and keeps its state in SQLite, and would be measured with the
clients. Each prediction lasts one second and costs no computing.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable

LASTS = 1.0
LISTENING = "listening on "
VERSION = "a" * 64


class Service:
    """Every prediction by its number, and how much was asked."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.requests = 0

    def answer(self, method: bytes, path: bytes) -> bytes:
        """One HTTP answer as bytes."""
        if path == b"/counts":
            return _http(b"200 OK", {"requests": self.requests, "creates": len(self.ends)})
        self.requests += 1
        if (method, path) == (b"POST", b"/v1/predictions"):
            self.ends.append(time.monotonic() + LASTS)
            return _http(b"201 Created", self._prediction(len(self.ends) - 1))
        if (method, path) == (b"GET", b"/v1/account"):  # whose money, asked once
            account: dict[str, object] = {"type": "user", "username": "bench", "name": "Bench"}
            return _http(b"200 OK", account)
        number = path.rpartition(b"/")[2]
        if method == b"GET" and number.isdigit() and int(number) < len(self.ends):
            return _http(b"200 OK", self._prediction(int(number)))
        return _http(b"404 Not Found", {"detail": "This service only creates and reads."})

    def _prediction(self, number: int) -> dict[str, object]:
        done = time.monotonic() >= self.ends[number]
        base = f"https://api.replicate.com/v1/predictions/{number}"
        return {
            "id": str(number),
            "model": "example/model",
            "version": VERSION,
            "input": {"prompt": "a lighthouse at dusk, oil on canvas"},
            "logs": "Using seed: 12345\n",
            "output": ["https://replicate.delivery/xezq/0/out-0.webp"] if done else None,
            "data_removed": False,
            "error": None,
            "source": "api",
            "status": "succeeded" if done else "processing",
            "created_at": "2026-01-01T00:00:00.000Z",
            "started_at": "2026-01-01T00:00:00.010Z",
            "completed_at": "2026-01-01T00:00:01.010Z" if done else None,
            "urls": {"cancel": f"{base}/cancel", "get": base},
            "metrics": {"predict_time": LASTS} if done else {},
        }


def _http(status: bytes, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(content),
        content,
    )


class Connection(asyncio.Protocol):
    """Just enough HTTP/1.1: requests with a Content-Length or without a body, one after another."""

    def __init__(self, answer: Callable[[bytes, bytes], bytes]) -> None:
        self._answer = answer
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._transport and (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            length = _content_length(head)
            if len(self._received) < end + 4 + length:
                return
            self._received = self._received[end + 4 + length :]
            method, path, _ = head.split(b" ", 2)
            self._transport.write(self._answer(method, path))


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def main() -> None:
    """Serve until standard input ends, which it does at the latest with the parent process."""
    service = Service()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(service.answer), "127.0.0.1", 0, backlog=4096
    )
    sys.stdout.write(f"{LISTENING}http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
