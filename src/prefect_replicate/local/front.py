"""What stands before everything else: notes each request, and spoils what is to go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from email.utils import format_datetime

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefect_replicate.local import descriptors, json_text
from prefect_replicate.local.conditions import Conditions
from prefect_replicate.local.faults import HEADER, Fault
from prefect_replicate.local.limits import Limits, low_credit, no_credit, throttled
from prefect_replicate.local.problems import Problem
from prefect_replicate.local.received import Received, RequestLog, without_version
from prefect_replicate.local.web import Gate, answer

# Here the server is told how to behave; no part of the API, and nothing there goes wrong.
CONTROL = "/_local"
# Where the protocol says in a request's scope how to close and how to break its connection.
CLOSE, ABORT = "prefect_replicate.close", "prefect_replicate.abort"
CONNECTIONS = "prefect_replicate.connections"  # and how many there are
# Replicate's budgets are for its API, not for files and pages.
_COUNTED = frozenset(
    [
        "account",
        "collections",
        "deployments",
        "files",
        "hardware",
        "models",
        "predictions",
        "search",
        "trainings",
        "webhooks",
    ]
)
_GONE = "http.disconnect"
_GATEWAY = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway"
    "</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
)


class Front:
    """The outermost layer.

    Args:
        app: What is behind it, and who is let in; nothing is spoilt for others.
        log: Where requests are noted.
        conditions: What goes wrong, and what time it is.
    """

    def __init__(self, app: Gate, log: RequestLog, conditions: Conditions) -> None:
        self._app, self._log, self._conditions = app, log, conditions
        self._most = descriptors.most_connections()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note a request, and let it in or spoil it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        moment = self._conditions.now()
        date = (b"date", format_datetime(moment, usegmt=True).encode())
        if scope["path"].startswith(f"{CONTROL}/"):
            await self._app(scope, receive, _Answer(send, date))
            return
        headers = Headers(scope=scope)
        received = self._log.begin(
            moment, scope["method"], scope["path"], scope["query_string"], headers
        )
        heard = self._hear(receive, received)
        reply = _Answer(send, date, received)
        if scope[CONNECTIONS] > self._most:
            await answer(descriptors.too_many(scope[CONNECTIONS]))(scope, heard, reply)
            return
        try:
            known = self._app.knows(headers.get("host", ""))
            fault = self._fault(headers, scope) if known else None
        except ValueError as error:
            problem = Problem(400, f"The header {HEADER} is wrong: {error}", "Bad Request")
            await answer(problem)(scope, heard, reply)
            return
        if fault is None:
            await self._app(scope, heard, reply)
            return
        received.fault = fault.kind
        await self._spoil(fault, scope, heard, reply)

    def _hear(self, receive: Receive, received: Received) -> Receive:
        async def hear() -> Message:
            message = await receive()
            if message["type"] == "http.request" and (chunk := message.get("body")):
                self._log.add_body(received, chunk)
            return message

        return hear

    def _fault(self, headers: Headers, scope: Scope) -> Fault | None:
        if asked := headers.get(HEADER):
            fields = json_text.parse(asked) if asked.startswith("{") else {"kind": asked}
            fault = Fault.model_validate(fields)
            if fault.target != "request":
                raise ValueError(f"{fault.kind} is no fault of a request")
            return fault
        path = without_version(scope["path"])
        return self._conditions.strike("request", method=scope["method"], path=path)

    async def _spoil(self, fault: Fault, scope: Scope, receive: Receive, send: _Answer) -> None:
        match fault.kind:
            case "drop_before":
                await _read_all(scope, receive)
                await _break(scope, receive)
            case "drop_after":
                await self._app(scope, receive, _nowhere)
                await _break(scope, receive)
            case "drop_and_do":
                with suppress(ClientDisconnect):  # of a client that left before it had asked
                    replay = await _replay(scope, receive)
                    await _break(scope, receive)
                    await asyncio.sleep(fault.seconds)
                    await self._app(scope, replay, _nowhere)
            case "slow":
                await self._app(scope, receive, _Late(send, fault.seconds))
            case "truncate":
                short = _Short(send, fault.size, scope[CLOSE])
                await self._app(scope, receive, short)
                if short.closed:
                    await _is_gone(receive)
            case _:
                if fault.accepted:
                    await self._app(scope, receive, _nowhere)
                else:
                    await _read_all(scope, receive)
                await _refusal(fault)(scope, receive, send)


class _Answer:
    """Sends an answer with the server's own date, and notes its status."""

    def __init__(
        self, send: Send, date: tuple[bytes, bytes], received: Received | None = None
    ) -> None:
        self._send, self._date, self._received = send, date, received

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [self._date, *message.get("headers", ())]}
            if self._received:
                self._received.status = message["status"]
        await self._send(message)


class _Late:
    """Sends an answer whose first byte comes late."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send, self._seconds = send, seconds

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await asyncio.sleep(self._seconds)
        await self._send(message)


class _Short:
    """Sends the beginning of an answer only."""

    def __init__(self, send: Send, size: int, close: Callable[[], None]) -> None:
        self._send, self._left, self._close = send, size, close
        self._stream = self._over = self.closed = False

    async def __call__(self, message: Message) -> None:
        if self._over:
            return
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self._stream = kind.startswith("text/event")
            await self._send(message)
            return
        body = message.get("body", b"")
        if len(body) <= self._left:
            self._left -= len(body)
            await self._send(message)
            return
        self._over = True
        # A stream without a length may end anywhere; an answer with one is cut off.
        await self._send({**message, "body": body[: self._left], "more_body": not self._stream})
        if not self._stream:
            self._close()
            self.closed = True


async def _nowhere(_: Message) -> None:
    """For an answer that never comes."""


async def _read_all(scope: Scope, receive: Receive) -> None:
    with suppress(ClientDisconnect):
        async for _ in Request(scope, receive).stream():
            pass


async def _replay(scope: Scope, receive: Receive) -> Receive:
    """Read a request to its end, and give it again to whoever asks: once, then its client is gone.

    Raises:
        ClientDisconnect: It has no end.
    """
    body = await Request(scope, receive).body()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        # Never a request without end: streams listen for the end of one, for ever.
        return messages.pop() if messages else {"type": _GONE}

    return again


async def _break(scope: Scope, receive: Receive) -> None:
    scope[ABORT]()
    await _is_gone(receive)


async def _is_gone(receive: Receive) -> None:
    """Wait until the protocol knows: before that, it logs that the answer is not finished."""
    while (await receive())["type"] != _GONE:
        pass


def _refusal(fault: Fault) -> Response:
    if fault.kind == "bad_gateway":
        return HTMLResponse(_GATEWAY, 502)
    if fault.kind == "no_credit":
        return answer(no_credit())
    if fault.kind == "low_credit":
        return answer(low_credit(fault.retry_after))
    after = fault.retry_after
    problem = throttled(
        after if fault.form == "text" else None,
        **({"retry_after": after} if fault.form == "body" else {}),
    )
    return answer(problem, {"Retry-After": str(after)} if fault.form == "header" else None)


class Meter:
    """Counts requests to the API, tells in headers what is left, and refuses what is too much.

    Args:
        app: The API and what is beside it; its paths are without /v1.
        conditions: How the service behaves.
    """

    def __init__(self, app: ASGIApp, conditions: Conditions) -> None:
        self._app, self._conditions = app, conditions
        self._limits = Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request."""
        if scope["path"].lstrip("/").partition("/")[0] not in _COUNTED:
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        try:
            seconds, behaviour = self._conditions.seconds(), self._conditions.behaviour
            left = self._limits.count(method, path, seconds, behaviour)
        except Problem as problem:
            await answer(problem)(scope, receive, send)
            return
        told = [(name.lower().encode(), value.encode()) for name, value in left.items()]

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *told]
            await send(message)

        await self._app(scope, receive, tell)
