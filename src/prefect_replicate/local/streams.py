"""Output as it is made, as server-sent events.

Nothing is queued for a reader: it has a place in the run's own output, and is told when there is
more. An event's id is that place behind the second of the run's creation, so every reader, and
every server after a restart, counts alike. A model that has to begin again is taken to say the
same again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from prefect_replicate.local.outputs import deliver
from prefect_replicate.local.records import Run

# Where streams are; whoever knows a prediction's id may read them.
STREAMS = "/streams/"
_STALLED = 20  # times as long may a client leave unread what has been sent
_BATCH = 1 << 16  # characters that are sent at once
_LINE_END = re.compile(r"\r\n|\r|\n")
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class EventStream(StreamingResponse):
    """A stream of events that a client follows.

    Args:
        events: Text of the events.
        idle: Seconds after which a stream without events is closed.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], idle: float) -> None:
        super().__init__(events, headers=_HEADERS)
        self._patience = _STALLED * idle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, until all is sent or the client stops reading."""

        async def send_soon(message: Any) -> None:
            async with asyncio.timeout(self._patience):
                await send(message)

        try:
            await super().__call__(scope, receive, send_soon)
        except* (TimeoutError, ClientDisconnect):
            pass  # the server cuts a connection whose answer was left unfinished


def nothing_more() -> Response:
    """The answer to a HEAD, which must not wait for the events."""
    return Response(headers=_HEADERS, media_type=EventStream.media_type)


def nothing_here() -> Response:
    """404, in events: a client that looks at nothing else than those learns of it, too."""
    detail = {"detail": "There is no stream here, or no longer."}
    events = _event("0:0", "error", _json(detail)) + _event("0:1", "done", _json(_reason("error")))
    return Response(events, 404, _HEADERS, media_type=EventStream.media_type)


async def follow(
    run: Run,
    watch: AbstractContextManager[asyncio.Event],
    base: str,
    after: str,
    *,
    idle: float,
    logs: Callable[[], str] | None = None,
) -> AsyncIterator[str]:
    """The events of a run, from its first on or after one of them, to its end.

    Args:
        run: A prediction that changes while it runs.
        watch: Gives what is set when it has changed.
        base: Address of the server, for the URLs of files.
        after: The id of the last event that the client has, or nothing.
        idle: Seconds without an event until the stream is closed.
        logs: Gives the run's logs so far, if there are to be events of them; they come with the
            output.
    """
    told = 0
    place = _place_after(run, after)
    yield ": hi\n\n"
    with watch as changed:
        while True:
            changed.clear()
            said, told = _next_logs(run, logs() if logs else "", told, place)
            text, place = _next_outputs(run, base, place)
            text = said + text
            if text:
                yield text
                await asyncio.sleep(0)  # sending to a fast reader never waits for anything
            elif run.ended:
                break
            elif not await _happens(changed, idle):
                yield ":408: 408 Request Timeout\n\n"
                return
    yield _last(run, place)


async def _happens(changed: asyncio.Event, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await changed.wait()
    except TimeoutError:
        return False


def _next_logs(run: Run, logs: str, told: int, place: int) -> tuple[str, int]:
    """What is new in the logs. It has the id of the output before it, where a reader goes on."""
    if len(logs) <= told:
        return "", told
    number = _id(run, place - 1) if place else f"{_second(run)}:"
    return _event(number, "logs", logs[told:]), len(logs)


def _next_outputs(run: Run, base: str, place: int) -> tuple[str, int]:
    """The outputs from a place on, though not too many at once, and the place behind them."""
    parts = run.output if isinstance(run.output, list) else []
    events: list[str] = []
    size = 0
    while place < len(parts) and size < _BATCH:
        part = deliver(parts[place], base)
        data = part if isinstance(part, str) else _json(part)
        events.append(_event(_id(run, place), "output", data))
        size += len(events[-1])
        place += 1
    return "".join(events), place


def _last(run: Run, place: int) -> str:
    """How a run ended. `done` always, also to a client that has been told."""
    reasons = {"succeeded": {}, "failed": _reason("error")}
    done = reasons.get(run.status, _reason("canceled"))
    end = len(run.output) if isinstance(run.output, list) else 0
    if run.status != "failed":
        return _event(_id(run, max(end, place)), "done", _json(done))
    error = _event(_id(run, end), "error", _json({"detail": run.error})) if place <= end else ""
    return error + _event(_id(run, max(end + 1, place)), "done", _json(done))


def _event(number: str, name: str, data: str) -> str:
    lines = "".join(f"data: {line}\n" for line in _LINE_END.split(data))
    return f"event: {name}\nid: {number}\n{lines}\n"


def _id(run: Run, place: int) -> str:
    return f"{_second(run)}:{place}"


def _place_after(run: Run, event_id: str) -> int:
    second, _, place = event_id.partition(":")
    ours = second == str(_second(run)) and re.fullmatch("[0-9]{1,9}", place)
    return int(place) + 1 if ours else 0


def _second(run: Run) -> int:
    return int(datetime.fromisoformat(run.created_at).timestamp())


def _reason(word: str) -> dict[str, str]:
    return {"reason": word}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
