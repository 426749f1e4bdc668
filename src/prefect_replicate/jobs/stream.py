"""The text of a prediction while it is made: streamed, and completed from the prediction itself.

A stream may break, stall, replay, or not exist. The prediction is the truth: what it has and the
stream did not bring is given afterwards, and nothing is given that it does not have.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from prefect_replicate.api.client import Client, Downloads, see_through
from prefect_replicate.api.errors import JobCanceled, JobError
from prefect_replicate.api.resources import Job, Prediction, Status
from prefect_replicate.api.streaming import CUT, DONE, OUTPUT, Event, Stream, Unstreamable
from prefect_replicate.jobs.engine import terminated
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.watch import Patience, Watch, abandon, outcome, write_end

_LINE_END = re.compile(r"\r\n?")


class Told:
    """What has been given out of a text: how much, and a digest to know it again."""

    def __init__(self) -> None:
        self._count, self._digest = 0, hashlib.sha256()

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, piece: str) -> None:
        """Remember a piece."""
        piece = _as_streamed(piece)
        self._count += len(piece)
        self._digest.update(_bytes(piece))

    def rest(self, pieces: list[str]) -> list[str] | None:
        """What of a text is not told yet, or None where what was told is not how it begins."""
        skip, seen = self._count, hashlib.sha256()
        for place, piece in enumerate(pieces):
            streamed = _as_streamed(piece)
            seen.update(_bytes(streamed[:skip]))
            if len(streamed) > skip:
                if seen.digest() != self._digest.digest():
                    return None
                following = filter(None, pieces[place + 1 :])
                return [streamed[skip:] if skip else piece, *following]
            skip -= len(streamed)
        return [] if skip == 0 and seen.digest() == self._digest.digest() else None


class TextStream:
    """The text of one prediction, piece by piece.

    It can be read again after an error, and goes on where it was: no piece is given twice.

    Args:
        client: Whose prediction it is.
        downloads: What reads the stream, without a token.
        job: The prediction as it was created.
        patience: How long to wait; the deadline counts from now.

    Attributes:
        told: What has been given of the text.
    """

    def __init__(
        self, client: Client, downloads: Downloads, job: Prediction, patience: Patience
    ) -> None:
        self.told = Told()
        self._watch = Watch(client, job, patience)
        self._stream = Stream(downloads, job.urls.stream) if job.urls.stream else None
        self._ended_badly: JobError | None = None

    @property
    def resumable(self) -> bool:
        """Whether reading it again can bring more; not so when the job has failed."""
        return self._ended_badly is None

    async def pieces(self) -> AsyncGenerator[str, None]:
        """What is new of the text, up to its end. A reader that stops early cancels the job.

        Raises:
            JobError: What became of the prediction, as `outcome` says it; again each time.
            ReplicateError: The prediction cannot be read; the message says that it goes on.
        """
        if self._ended_badly:
            raise self._ended_badly
        try:
            async with aclosing(self._streamed()) as streamed:
                async for piece in streamed:
                    self.told.add(piece)
                    yield piece
            async with aclosing(self._polled()) as polled:
                async for piece in polled:
                    self.told.add(piece)
                    yield piece
        except JobError as error:
            self._ended_badly = error
            raise
        except (GeneratorExit, asyncio.CancelledError):
            await see_through(self._unwanted())
            raise

    async def _streamed(self) -> AsyncGenerator[str, None]:
        if not self._stream:
            return
        try:
            async with aclosing(self._stream.events()) as events:
                while event := await self._following(events):
                    if event.kind == OUTPUT and event.data:
                        yield event.data
                    elif event.kind == CUT:
                        run_logger().info("The stream was cut (%s); going on", event.data)
                        await self._watch.see()
        except Unstreamable as error:
            run_logger().warning("%s Waiting for the prediction instead.", error)
            self._stream = None

    async def _following(self, events: AsyncGenerator[Event, None]) -> Event | None:
        """The next event, or None where none is needed: the prediction has ended, or it was DONE.

        While nothing comes, the prediction is read now and then: a stream may stall for good.
        """
        watch, patience = self._watch, self._watch.patience
        coming = asyncio.create_task(_next(events))
        try:
            while not watch.job.done:
                pause = min(patience.look_every, patience.poll_last, max(0.0, watch.left))
                await asyncio.wait([coming], timeout=pause)
                await watch.heed()
                if coming.done():
                    event = coming.result()
                    return None if event.kind == DONE else event
                await watch.see()
            return None
        finally:
            coming.cancel()
            await see_through(_ended(coming))

    async def _polled(self) -> AsyncGenerator[str, None]:
        watch = self._watch
        watch.since = time.monotonic()
        await watch.see()
        while not watch.job.done:
            if isinstance(watch.job.output, list):  # A growing one; anything else may change yet.
                for piece in self._rest() or []:
                    yield piece
            await watch.turn()
        await write_end(watch.job)
        # A reader may take longer than the hour that Replicate keeps outputs for.
        if self.told and watch.job.status == Status.SUCCEEDED and watch.job.data_removed:
            run_logger().warning("The end of the text is unconfirmed: its output is gone already.")
            return
        ended = outcome(watch.job)
        if (rest := self._rest()) is None:
            raise _unlike(ended)
        for piece in rest:
            yield piece

    def _rest(self) -> list[str] | None:
        pieces = _text(self._watch.job)
        return None if pieces is None else self.told.rest(pieces)

    async def _unwanted(self) -> None:
        if self._watch.job.done:
            return
        left = await abandon(self._watch.client, self._watch.job, interrupted=terminated())
        self._ended_badly = JobCanceled(f"Its reader stopped. {left.fate}.", left.job)


async def _next(events: AsyncGenerator[Event, None]) -> Event:
    return await anext(events)


async def _ended(coming: asyncio.Task[Event]) -> None:
    await asyncio.wait([coming])


def text_of(job: Job) -> list[str]:
    """The pieces of a succeeded job's text, none of them empty.

    Raises:
        JobError: Its output is not text.
    """
    pieces = _text(job)
    if pieces is None:
        raise _unlike(job)
    return [piece for piece in pieces if piece]


def _text(job: Job) -> list[str] | None:
    """The pieces of an output that is text, or None where it is not."""
    output = [] if job.output is None else job.output
    pieces = output if isinstance(output, list) else [output]
    return pieces if all(isinstance(piece, str) for piece in pieces) else None


def _unlike(job: Job) -> JobError:
    what = f"Prediction {job.id} of '{job.reference}' succeeded, but its output"
    if _text(job) is None:
        return JobError(f"{what} is not text, so it cannot be streamed. It is `.job.output`.", job)
    return JobError(
        f"{what} does not begin with what it streamed. The whole text is `.job.output`; discard "
        f"the pieces that were given.",
        job,
    )


def _as_streamed(piece: str) -> str:
    """Events have no other line ends than this one."""
    return _LINE_END.sub("\n", piece)


def _bytes(piece: str) -> bytes:
    return piece.encode(errors="surrogatepass")
