"""Everything that takes longer than it should, or comes from a clock that is wrong."""

import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta, tzinfo
from typing import Any, Self

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from prefect_replicate import ReplicateCredentials, ReplicateWebhook, run_model, train_model
from tests.chaos.conftest import FULL_SIZE, Again, World
from tests.chaos.proxy import Proxy
from tests.chaos.running import until
from tests.chaos.test_lost import CREATE, DATA, asking
from tests.chaos.test_refused import behind, kinds, prefect_url

HOUR = 3600


def margins(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    for name, value in seconds.items():
        setting = f"PREFECT_INTEGRATIONS_REPLICATE_LEDGER_{name.upper()}"
        monkeypatch.setenv(setting, str(value))


def test_a_call_that_stalls_after_its_claim_sends_nothing_and_claims_anew_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    margins(monkeypatch, send=1, answer=90)
    sent: list[int] = []

    def stalls(request: Request, body: bytes) -> Response | None:
        if request.url.path.endswith("/input") and b"-c01" in body:
            time.sleep(1.5)
            sent.append(len(world.creates()))
        return None

    begun = time.monotonic()
    with Proxy(prefect_url(), after=stalls).running() as url:
        asked = behind(world, url)
        assert asked.first().output == "ledger"
    # Whoever had to look would have looked for the whole of the quarantine.
    assert time.monotonic() - begun < 90
    assert sent == [0]
    assert kinds(asked) == ["g01-c01", "g01-c02", "g01-end", "g01-job", "g01-v01"]
    assert "stalled" in next(value for name, value in asked.rows().items() if name.endswith("-v01"))
    assert len(world.creates()) == 1


def test_a_create_that_is_taken_and_listed_as_late_as_may_be_is_not_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    margins(monkeypatch, answer=1, accept=2, list=3)
    world.replicate.behave(list_lag=2)
    with world.replicate.fault("drop_and_do", seconds=2, **CREATE):
        made = asking(world, text="late").first()
    assert len(world.creates()) == 1
    assert [job["id"] for job in world.jobs()] == [made.id]


@pytest.mark.parametrize("how", ["trickles", "is late"])
def test_an_answer_is_waited_for_so_long_in_all_and_its_job_is_found(
    world: World, how: str
) -> None:
    trickled: list[int] = []

    async def trickle() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b" "
            trickled.append(number)
            await anyio.sleep(0.3)

    def slowly(request: Request, _: bytes) -> Response | None:
        creating = request.method == "POST" and request.url.path == "/v1/predictions"
        return StreamingResponse(trickle(), 201) if creating and how == "trickles" else None

    with ExitStack() as stack:
        if how == "is late":
            stack.enter_context(world.replicate.fault("slow", seconds=60, **CREATE))
        url = stack.enter_context(Proxy(world.replicate.base_url, after=slowly).running())
        credentials = ReplicateCredentials(api_token=world.credentials.api_token, base_url=url)
        if how == "is late":
            credentials = world.credentials
        made = Again(lambda: run_model(world.model, {"text": how}, credentials=credentials)).first()
    assert len(trickled) < 100
    assert bool(trickled) == (how == "trickles")
    assert len(world.creates()) == 1
    assert [job["id"] for job in world.jobs()] == [made.id]


def test_a_create_that_found_nobody_is_sent_again_under_the_same_claim(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    margins(monkeypatch, send=60)
    door = Door(world.replicate.base_url)
    closing: list[threading.Timer] = []

    def shuts(request: Request, body: bytes) -> Response | None:
        if request.url.path.endswith("/input") and b"-c01" in body:
            door.close()
            closing.append(threading.Timer(0.8, door.open))
            closing[0].start()
        return None

    with door.opened() as url, Proxy(prefect_url(), after=shuts).running() as ledger:
        credentials = ReplicateCredentials(api_token=world.credentials.api_token, base_url=url)
        asked = behind(world, ledger, credentials)
        assert asked.first().output == "ledger"
        closing[0].join()
    assert kinds(asked) == ["g01-c01", "g01-end", "g01-job"]
    assert len(world.creates()) == 1
    assert world.lists() == 0


class Door:
    """Lets connections through to a server while it is open; whoever comes otherwise is refused."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition("/")[2].partition(":")
        self._target = host, int(port)
        self._address = ("127.0.0.1", 0)
        self._through: list[socket.socket] = []
        self._listening: socket.socket | None = None

    @contextmanager
    def opened(self) -> Iterator[str]:
        """Open it; its base URL."""
        self.open()
        try:
            yield f"http://{self._address[0]}:{self._address[1]}"
        finally:
            self.close()

    def open(self) -> None:
        """Let connections through."""
        listening = socket.create_server(self._address)
        self._listening, self._address = listening, listening.getsockname()
        threading.Thread(target=self._let_in, args=[listening], daemon=True).start()

    def close(self) -> None:
        """Refuse new ones, and end those that there are."""
        listening, self._listening = self._listening, None
        for each in [listening, *self._through]:
            if each:
                end(each)
        self._through.clear()

    def _let_in(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return  # it was closed
            server = socket.create_connection(self._target)
            self._through += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=pump, args=[source, sink], daemon=True).start()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry over what comes, until either is closed."""
    try:
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    except OSError:
        pass  # the other way has ended it
    finally:
        end(sink)


def end(each: socket.socket) -> None:
    """Close a socket, also for those who are reading from it."""
    with suppress(OSError):  # nobody is connected
        each.shutdown(socket.SHUT_RDWR)
    each.close()


# Whether jobs show their webhooks, seconds until they are listed, and by how many seconds the
# clocks of Replicate and of this machine are ahead.
# Each setting of each is in the first two.
UNCONFIRMED = [(False, 2, HOUR, 0), (True, 0, 0, -HOUR)]
if FULL_SIZE:
    UNCONFIRMED += [(True, 2, -HOUR, 0), (False, 0, 0, HOUR)]


@pytest.mark.parametrize(("echo", "lag", "theirs", "ours"), UNCONFIRMED)
def test_lost_answers_have_one_job_however_replicate_behaves_and_whatever_the_clocks_say(
    world: World,
    unused_tcp_port: int,
    monkeypatch: pytest.MonkeyPatch,
    echo: bool,
    lag: float,
    theirs: float,
    ours: float,
) -> None:
    margins(monkeypatch, list=lag + 1)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_POLL", "0.2")
    set_clock(monkeypatch, ours)
    world.replicate.behave(webhook_echo=echo, list_lag=lag, clock_offset=theirs)
    # Others ask for something else meanwhile: they are not taken for it.
    strangers = {world.foreign(text="another") for _ in range(3)}
    hook = ReplicateWebhook(public_url=f"http://127.0.0.1:{unused_tcp_port}")
    paid = world.credentials

    def ask() -> list[Any]:
        given = {"training_data": DATA}
        asked: list[Any] = [
            run_model.submit(world.model, {"text": "taken"}, credentials=paid),
            run_model.submit(
                input={"text": "not"}, deployment="local/chaos", credentials=paid, webhook=hook
            ),
            train_model.submit(world.model, "local/trained", given, credentials=paid),
        ]
        return [future.result() for future in asked]

    with (
        world.replicate.fault("drop_after", **CREATE),
        world.replicate.fault("drop_before", method="POST", path="/deployments/*"),
        world.replicate.fault("drop_after", method="POST", path="/models/*/trainings"),
    ):
        asked = Again(ask)
        taken, resubmitted, trained = asked.first()
    assert len(world.creates()) == len(strangers) + 4
    until(lambda: len(world.jobs()) >= len(strangers) + 2, lambda: str(world.jobs()))
    assert {job["id"] for job in world.jobs()} == strangers | {taken.id, resubmitted.id}
    assert [job["id"] for job in world.jobs("trainings")] == [trained.id]


def set_clock(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """Make the wall clock of this machine wrong, for all code of ours."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(seconds=ahead)

    for name, module in list(sys.modules.items()):
        own = name.startswith(("prefect_replicate.api", "prefect_replicate.jobs"))
        if own and getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", Wrong)
