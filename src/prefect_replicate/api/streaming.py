"""Server-sent events of a running prediction, read on across lost connections.

They are parsed here and not by httpx-sse (0.4): that gives an event without an id the id of the one
before it, so that it would look like one that was seen, and it puts no bound on a line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

import httpx

from prefect_replicate.api.client import Downloads
from prefect_replicate.api.errors import TransportError

OUTPUT, LOGS, ERROR, DONE = "output", "logs", "error", "done"
# Not Replicate's: the connection was lost, and another one follows.
CUT = "cut"

# Of one event, in characters; outputs are words and URLs.
LARGEST = 1 << 24
# Connections in a row that brought nothing new.
MOST_IN_VAIN = 5
# How many ids are remembered to tell a replay from what is new.
REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `id` is its own, or None; `data` of a `CUT` says why."""

    kind: str
    data: str = ""
    id: str | None = None


class Unstreamable(TransportError):
    """A stream that cannot be read, or no further; its prediction can still be asked."""


class Parser:
    """Bytes as they come, cut anywhere, to events, as the HTML standard has it.

    Attributes:
        idle: The server has said that it closes the stream only because nothing has happened.
    """

    def __init__(self) -> None:
        self.idle = False
        self._line = bytearray()
        self._after_cr = False
        self._kind = ""
        self._id: str | None = None
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that are complete with this chunk.

        Raises:
            Unstreamable: An event is larger than any that makes sense.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        # Only these end a line, and neither is ever a part of another character of UTF-8.
        first, *more = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._line += first
        for following in more:
            line, self._line = self._line.decode(errors="replace"), bytearray(following)
            if line:
                self._field(line)
                continue
            if self._kind or self._data:
                yield Event(self._kind or "message", "\n".join(self._data), self._id)
            self._clear()
        if self._size + len(self._line) > LARGEST:
            raise Unstreamable(f"An event is larger than {LARGEST} characters.")

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                self.idle = self.idle or value.startswith("408")
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
                self._size += len(value) + 1
            case "id" if value and "\0" not in value:
                self._id = value

    def _clear(self) -> None:
        self._kind, self._id, self._data, self._size = "", None, [], 0


@dataclass(slots=True)
class Place:
    """How far a stream has been read, so that another connection can go on from there.

    A server may go on after the `Last-Event-ID` that it is told, or begin again; the ids tell.
    """

    first: str | None = None
    last: str | None = None
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    nameless: bool = False
    replaying: bool | None = False

    def reconnected(self) -> None:
        """Another connection begins; its first id shows where."""
        self.replaying = None if self.last else False

    def admits(self, event: Event) -> bool:
        """Whether an event is new.

        Raises:
            Unstreamable: It cannot be told.
        """
        if event.kind in {DONE, ERROR}:
            return True
        if event.id is None:
            if event.kind != OUTPUT:
                return True
            if self.replaying is not False:
                raise Unstreamable("Its events have no ids, so what is new is not known.")
            self.nameless = True
            return True
        if self.replaying is None:
            self.replaying = event.id == self.first or event.id in self.recent
        if self.replaying:
            self.replaying = event.id != self.last
            return False
        self.first, self.last = self.first or event.id, event.id
        self.recent.append(event.id)
        return True


class Stream:
    """The events of one prediction. Read again after an error, it goes on where it was.

    Args:
        downloads: The client without a token: streams come from other hosts than the API.
        url: The prediction's `urls.stream`.
        idle: Seconds without a byte after which a connection counts as lost; Replicate closes one
            itself after 30 s.
        pause: Seconds before another connection; doubles while they bring nothing.
    """

    def __init__(
        self, downloads: Downloads, url: str, *, idle: float = 45.0, pause: float = 0.5
    ) -> None:
        self._downloads, self._url = downloads, url
        self._idle, self._pause = idle, pause
        self._place = Place()
        self._taken = 0
        self._was_idle = False

    async def events(self) -> AsyncGenerator[Event, None]:
        """Every event once, up to `DONE`; a `CUT` wherever the connection was lost.

        Raises:
            Unstreamable: Not a stream, or too many connections in a row brought nothing new.
        """
        in_vain = 0
        while True:
            before, lost = self._taken, "it ended early"
            try:
                async with aclosing(self._connection()) as events:
                    async for event in events:
                        yield event
                        if event.kind == DONE:
                            return
            except Unstreamable as error:
                raise self._named(str(error)) from error
            except TransportError as error:
                lost = str(error)
            if self._place.nameless:
                raise self._named(f"Cut off ({lost}), and without ids it cannot be resumed.")
            in_vain = 0 if self._taken > before or self._was_idle else in_vain + 1
            if in_vain == MOST_IN_VAIN:
                raise self._named(f"{in_vain} connections in a row brought nothing: {lost}.")
            yield Event(CUT, lost)
            await asyncio.sleep(self._pause * 2**in_vain)

    async def _connection(self) -> AsyncGenerator[Event, None]:
        parser, self._was_idle = Parser(), False
        self._place.reconnected()
        async with self._downloads.listen(self._url, self._place.last, self._idle) as response:
            _check(response)
            async for chunk in response.aiter_bytes():
                for event in parser.feed(chunk):
                    if self._place.admits(event):
                        # Nothing else is progress: what has no id may be the same each time.
                        self._taken += event.kind == OUTPUT
                        yield event
                self._was_idle = parser.idle

    def _named(self, why: str) -> Unstreamable:
        return Unstreamable(f"Stream {self._url} cannot be read (any further). {why}")


_PASSING = frozenset({408, 425, 429})


def _check(response: httpx.Response) -> None:
    status = response.status_code
    if status in _PASSING or status >= 500:
        raise TransportError(f"HTTP {status}", status=status)
    if status != 200:
        raise Unstreamable(f"HTTP {status}.", status=status)
    kind = response.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "text/event-stream":
        raise Unstreamable(f"It is not a stream of events but {kind or 'of no type'!r}.")
