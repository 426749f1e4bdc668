"""Asks one server the same thing over and over: `python -m tests.benchmarks.load < ORDER`.

Much lighter than any HTTP library, since it shares the machine with what is measured: it knows
requests as ready-made bytes, and of answers the status, the length and whether it worked out.
"""

import asyncio
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

# coglet frees the place of a prediction some milliseconds after its answer.
AGAIN_AFTER = 0.001


@dataclass
class Tally:
    """What became of the requests.

    Attributes:
        left: How many are still to be sent.
        held: The most that waited for their answers at the same time.
        refused: How often the server was at capacity, and was asked again.
        other: The first answer that was neither.
    """

    left: int
    succeeded: int = 0
    waiting: int = 0
    held: int = 0
    refused: int = 0
    other: str = ""
    seconds: list[float] = field(default_factory=list)


class Client(asyncio.Protocol):
    """One connection that is kept: a request, its answer, the next request."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self._request, self._tally = request, tally
        self._received = b""
        self._asked = 0.0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._tally.other = self._tally.other or f"the connection broke: {error}"
            self.done.set_result(None)

    def ask(self) -> None:
        assert self._transport
        if self._tally.left == 0:
            self.done.set_result(None)
            self._transport.close()
            return
        self._tally.left -= 1
        self._tally.waiting += 1
        self._tally.held = max(self._tally.held, self._tally.waiting)
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < content_length(head):
            return
        self._received = b""
        if head.split(b" ", 2)[1] == b"409":
            self._tally.refused += 1
            asyncio.get_running_loop().call_later(AGAIN_AFTER, self._ask_again)
            return
        self._tally.waiting -= 1
        if b'"succeeded"' in body:
            self._tally.succeeded += 1
            self._tally.seconds.append(time.perf_counter() - self._asked)
        elif not self._tally.other:
            self._tally.other = repr(self._trimmed(head, body))
        self.ask()

    def _ask_again(self) -> None:
        if self._transport and not self.done.done():
            self._transport.write(self._request)

    def _trimmed(self, head: bytes, body: bytes) -> bytes:
        return head.partition(b"\r\n")[0] + b" " + body[:300]


def content_length(head: bytes) -> int:
    """The length of the body behind a head; none is taken as empty."""
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def load(order: dict[str, Any]) -> dict[str, Any]:
    """Send what is ordered, and say what became of it and what it took.

    Args:
        order: `host` and `port`; `path`, `headers` and `body` of the requests; `clients` and
            `count`; `first`, another body for the first client.
    """
    tally = Tally(left=order["count"])
    loop = asyncio.get_running_loop()
    bodies = [order.get("first") or order["body"], *[order["body"]] * (order["clients"] - 1)]
    clients = []
    for body in bodies:
        request = _request(order, json.dumps(body).encode())
        made = await loop.create_connection(
            lambda request=request: Client(request, tally),  # type: ignore[misc]
            order["host"],
            order["port"],
        )
        clients.append(made[1])
    cpu, start = time.process_time(), time.perf_counter()
    for client in clients:
        client.ask()
    await asyncio.gather(*(client.done for client in clients))
    wall = time.perf_counter() - start
    return asdict(tally) | {"wall": wall, "cpu": time.process_time() - cpu}


def _request(order: dict[str, Any], body: bytes) -> bytes:
    headers = {
        "Host": f"{order['host']}:{order['port']}",
        "Content-Type": "application/json",
        "Content-Length": len(body),
        **order["headers"],
    }
    lines = [f"POST {order['path']} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def main() -> None:
    """Do what standard input orders."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.stdout.write(json.dumps(asyncio.run(load(json.load(sys.stdin)))) + "\n")


if __name__ == "__main__":
    main()
