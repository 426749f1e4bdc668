"""Streaming as a user does it: a generator task over Local Replicate, and a wire that is cut."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from prefect import flow, task, unmapped
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from prefect_replicate import (
    BadInputError,
    DeadlineExceeded,
    LocalReplicate,
    ModelError,
    ReplicateCredentials,
    astream_model,
    run_model,
    stream_model,
)
from tests.tasks.conftest import jobs

ASKED = {"prompt": "The LORD ", "max_tokens": 60, "seed": 7}
LONG: dict[str, object] = {"count": 200}
COUNTS = """
import time

from cog import BasePredictor, ConcatenateIterator, Input


class Predictor(BasePredictor):
    def predict(
        self, count: int = Input(default=40), fail_at: int = Input(default=-1)
    ) -> ConcatenateIterator[str]:
        for number in range(count):
            if number == fail_at:
                raise ValueError("interrupted; please retry (code: PA)")
            yield f"{number} "
            time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def counting(replicate: LocalReplicate, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that counts, 20 numbers a second."""
    folder = tmp_path_factory.mktemp("counting")
    (folder / "cog.yaml").write_text(
        'build: {python_version: "3.11"}\npredict: predict.py:Predictor\n'
    )
    (folder / "predict.py").write_text(COUNTS)
    return replicate.push(folder, "local/counting")


@dataclass
class Wire:
    """A proxy before Local Replicate that cuts answers to stream requests after so many bytes."""

    to: str
    base_url: str = ""
    cuts: list[int] = field(default_factory=list)
    refuse: int = 0
    unauthorized_after: int | None = None
    heads: list[bytes] = field(default_factory=list)

    @property
    def streams(self) -> list[bytes]:
        """The requests for streams that came through."""
        return [head for head in self.heads if b"text/event-stream" in head]

    def _unauthorized(self, head: bytes) -> bool:
        """Whether this is the first read of a prediction after so many streams."""
        due = self.unauthorized_after
        if due is None or b"GET /v1/predictions/" not in head or len(self.streams) < due:
            return False
        self.unauthorized_after = None
        return True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one request there and its answer back."""
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if self.refuse and b"text/event-stream" in head:
                self.refuse -= 1
                writer.close()
                return
            if self._unauthorized(head):
                writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
                writer.close()
                return
            parts = urlsplit(self.to)
            back, there = await asyncio.open_connection(parts.hostname, parts.port)
            # One request a connection, so that the answer's end is the connection's.
            there.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            length = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
            if length:
                there.write(await reader.readexactly(int(length[0].partition(b":")[2])))
            left = self.cuts.pop(0) if self.cuts and b"text/event-stream" in head else 1 << 30
            while left > 0 and (piece := await back.read(min(left, 4096))):
                writer.write(piece)
                await writer.drain()
                left -= len(piece)
            there.close()
        writer.close()


@pytest.fixture
async def wire(replicate: LocalReplicate) -> AsyncIterator[Wire]:
    it = Wire(replicate.base_url)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield it
    server.close()


@pytest.fixture
def wired(wire: Wire, replicate: LocalReplicate) -> ReplicateCredentials:
    return ReplicateCredentials(api_token=replicate.token, base_url=wire.base_url)


def _status(replicate: LocalReplicate, within: float = 10.0) -> str:
    """How the newest prediction ended."""
    deadline = time.monotonic() + within
    while (status := jobs(replicate)[0]["status"]) in {"starting", "processing"}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return str(status)


def test_the_pieces_are_the_text_of_the_prediction(
    credentials: ReplicateCredentials, text_model: str
) -> None:
    @flow
    def both() -> tuple[list[str], str]:
        pieces = list(stream_model(text_model, ASKED, credentials=credentials))
        return pieces, run_model(text_model, ASKED, credentials=credentials).text

    pieces, text = both()
    assert len(pieces) > 10
    assert "".join(pieces) == text


async def test_they_come_while_the_model_writes(
    credentials: ReplicateCredentials, counting: str, replicate: LocalReplicate
) -> None:
    @flow
    async def reading() -> str:
        pieces = astream_model(counting, LONG, credentials=credentials)
        async for _ in pieces:
            running = str(jobs(replicate)[0]["status"])
            await pieces.aclose()
            return running
        return "nothing came"

    assert await reading() == "processing"


def test_a_model_that_does_not_stream_gives_its_text_at_the_end(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    assert list(stream_model(tiny_model, {"text": "whole"}, credentials=credentials)) == ["whole"]


def test_who_stops_reading_cancels_the_prediction_and_the_flow_goes_on(
    credentials: ReplicateCredentials, counting: str, replicate: LocalReplicate
) -> None:
    ends: list[str] = []
    watched = stream_model.with_options(
        on_completion=[lambda _, __, state: ends.append(str(state.name))],
    )
    watched.on_rollback(lambda _: ends.append("rolled back"))

    @flow
    def reading() -> str:
        for piece in watched(counting, LONG, credentials=credentials):
            if piece:
                break
        return "went on"

    assert reading() == "went on"
    assert _status(replicate) == "canceled"
    assert ends == ["Completed"]


async def test_an_async_reader_may_stop_too(
    credentials: ReplicateCredentials, counting: str, replicate: LocalReplicate
) -> None:
    ends: list[str] = []
    watched = astream_model.with_options(
        on_completion=[lambda _, __, state: ends.append(str(state.name))],
        on_failure=[lambda _, __, state: ends.append(str(state.name))],
    )
    watched.on_rollback(lambda _: ends.append("rolled back"))

    @flow
    async def reading() -> str:
        async for _ in watched(counting, LONG, credentials=credentials):
            break
        return "went on"

    assert await reading() == "went on"
    while not ends:  # The loop closes what is left half read, soon after.
        await asyncio.sleep(0.05)
    assert await asyncio.to_thread(_status, replicate) == "canceled"
    assert ends == ["Completed"]


async def test_an_async_reader_that_is_cancelled_cancels_the_prediction(
    credentials: ReplicateCredentials, counting: str, replicate: LocalReplicate
) -> None:
    async def reading() -> None:
        async for _ in astream_model(counting, LONG, credentials=credentials):
            pass

    running = asyncio.create_task(reading())
    await asyncio.sleep(2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await asyncio.to_thread(_status, replicate) == "canceled"


def test_the_deadline_holds_while_pieces_come(
    credentials: ReplicateCredentials, counting: str, replicate: LocalReplicate
) -> None:
    told: list[str] = []
    with pytest.raises(DeadlineExceeded, match="was canceled"):
        told.extend(stream_model(counting, LONG, credentials=credentials, deadline=2.0))
    assert _status(replicate) == "canceled"


async def test_a_cut_stream_goes_on_without_repeating_a_piece(
    wire: Wire, wired: ReplicateCredentials, counting: str
) -> None:
    wire.cuts = [400, 450, 600]
    pieces = [piece async for piece in astream_model(counting, {}, credentials=wired)]
    assert "".join(pieces) == "".join(f"{number} " for number in range(40))
    assert len(wire.streams) == 4
    assert all(b"last-event-id: " in head.lower() for head in wire.streams[1:])
    assert all(b"authorization" not in head.lower() for head in wire.streams)


async def test_a_stream_that_never_works_is_made_up_for_by_the_prediction(
    wire: Wire, wired: ReplicateCredentials, text_model: str
) -> None:
    wire.refuse = 100
    pieces = [piece async for piece in astream_model(text_model, ASKED, credentials=wired)]
    assert len("".join(pieces)) == 60
    creates = [head for head in wire.heads if head.startswith(b"POST /v1/predictions ")]
    assert len(creates) == 1


@pytest.mark.parametrize(("fail_at", "attempts"), [(2, 1), (0, 3)])
def test_what_failed_after_a_piece_is_not_run_again_and_what_failed_before_is(
    credentials: ReplicateCredentials,
    counting: str,
    replicate: LocalReplicate,
    fail_at: int,
    attempts: int,
) -> None:
    before, told, begun = len(jobs(replicate)), list[str](), list[str]()
    patient = stream_model.with_options(
        retries=2,
        retry_delay_seconds=0,
        on_running=[lambda _, __, state: begun.append(str(state.name))],
    )

    @flow
    def reading() -> None:
        told.extend(patient(counting, {"fail_at": fail_at}, credentials=credentials))

    with pytest.raises(ModelError, match="code: PA"):
        reading()
    assert told == ["0 ", "1 "][:fail_at]
    assert (len(begun), len(jobs(replicate))) == (attempts, before + attempts)


async def test_a_retry_goes_on_with_the_same_prediction(
    wire: Wire, replicate: LocalReplicate, counting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A token that stops working in the middle ends the reading, and works again for the retry.
    wired = ReplicateCredentials(api_token=replicate.token, base_url=wire.base_url)
    wire.cuts, wire.unauthorized_after = [700], 1
    told: list[str] = []

    @flow
    async def reading() -> None:
        patient = astream_model.with_options(
            retries=2, retry_delay_seconds=0, retry_condition_fn=always
        )
        async for piece in patient(counting, {}, credentials=wired):
            told.append(piece)  # noqa: PERF401 - what comes before the error is the point

    await reading()
    assert "".join(told) == "".join(f"{number} " for number in range(40))
    creates = [head for head in wire.heads if head.startswith(b"POST /v1/predictions ")]
    assert len(creates) == 1
    assert wire.unauthorized_after is None


async def always(*_: object) -> bool:
    """Try again whatever it was, as a `retry_condition_fn` of one's own may."""
    return True


def test_a_model_that_fails_is_the_last_that_comes(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    wrong = {"do": "fail", "text": "no luck"}
    with pytest.raises(ModelError, match="no luck"):
        list(stream_model(tiny_model, wrong, credentials=credentials))


def test_wrong_input_is_refused_before_anything_runs(
    credentials: ReplicateCredentials, text_model: str, replicate: LocalReplicate
) -> None:
    before = len(jobs(replicate))
    with pytest.raises(BadInputError, match="max_tokens"):
        list(stream_model(text_model, {"max_tokens": -1}, credentials=credentials))
    assert len(jobs(replicate)) == before


def test_submitted_and_mapped_it_gives_all_pieces_at_once(
    credentials: ReplicateCredentials, text_model: str
) -> None:
    @flow
    def apart() -> tuple[list[str], list[list[str]]]:
        one = stream_model.with_options(retries=1).submit(
            text_model, ASKED, credentials=credentials
        )
        inputs = [{**ASKED, "seed": seed} for seed in (7, 8)]
        many = stream_model.map(text_model, inputs, credentials=unmapped(credentials))
        # Prefect's types take what a task gives for what its future has.
        return one.result(), many.result()  # type: ignore[return-value]

    one, many = apart()
    assert len(one) > 10
    assert "".join(one) == "".join(many[0]) != "".join(many[1])


async def test_a_reader_is_not_inside_the_task_that_it_reads(
    credentials: ReplicateCredentials, text_model: str
) -> None:
    @task
    def shout(piece: str) -> str:
        return piece.upper()

    @flow
    def reading() -> tuple[list[str], str]:
        shouted = [shout(p) for p in stream_model(text_model, ASKED, credentials=credentials)]
        return shouted, str(flow_run.id)

    shouted, run_id = await asyncio.to_thread(reading)
    assert len("".join(shouted)) == 60
    async with get_client() as client:
        assert (await client.read_flow_run(run_id)).state_name == "Completed"  # type: ignore[arg-type]
