import json
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from prefect_replicate.local import LocalReplicate
from tests.local.conftest import Api, Client

OVER = {"succeeded", "failed", "canceled", "aborted"}


@dataclass
class Message:
    """One delivery, as it came in."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def run(self) -> dict[str, Any]:
        return dict(json.loads(self.raw))

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """A real HTTP server; `answers` are the statuses of the first deliveries, then it takes all."""

    answers: list[int] = field(default_factory=list)
    port: int = 0
    got: list[Message] = field(default_factory=list)
    hanging: threading.Event | None = None
    server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?of=me"

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.got.append(Message(self.path, headers, raw))
                if receiver.hanging:
                    receiver.hanging.wait(30)
                status = receiver.answers.pop(0) if receiver.answers else 200
                self.send_response(status)
                if status in {301, 302, 307}:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Not on the console."""

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self) -> None:
        if self.hanging:
            self.hanging.set()
        if self.server:
            self.server.shutdown()
            self.server.server_close()

    def until(self, enough: Callable[[list[Message]], bool]) -> list[Message]:
        give_up = time.monotonic() + 30
        while not enough(self.got):
            assert time.monotonic() < give_up, [message.run["status"] for message in self.got]
            time.sleep(0.01)
        return self.got

    def until_over(self) -> list[Message]:
        """What came, once the message about the end is among it, and a moment for any more."""
        self.until(lambda got: any(message.run["status"] in OVER for message in got))
        time.sleep(0.7)
        return self.got

    def order(self, version: str, *events: str, **input: Any) -> dict[str, Any]:
        """A prediction whose client is this receiver."""
        chosen = {"webhook_events_filter": list(events)} if events else {}
        return {"version": version, "input": input, "webhook": self.url, **chosen}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def hasty() -> Iterator[Api]:
    """A server that tries again soon."""
    with LocalReplicate(webhook_retries=(0.2, 0.4, 0.8, 1.6, 3.2)) as server:
        yield Api(server)


@pytest.fixture(scope="module")
def hasty_actor(hasty: Api, actor_folder: Path) -> str:
    return hasty.server.push(actor_folder, "acme/actor")


def start(api: Api, order: dict[str, Any]) -> dict[str, Any]:
    response = api.http.post("/predictions", json=order)
    assert response.status_code == 201, response.text
    return dict(response.json())


def test_every_message_is_what_a_get_answers_and_is_signed(
    api: Api, actor: str, receiver: Receiver
) -> None:
    run = start(api, receiver.order(actor, text="café"))
    (message,) = receiver.until_over()
    Webhook(api.server.webhook_secret).verify(message.raw, message.headers)
    assert message.raw == api.http.get(run["urls"]["get"]).content
    assert message.path == "/hook?of=me"
    assert message.headers["content-type"] == "application/json"


def test_without_a_filter_new_output_and_the_end_are_told(
    api: Api, counter: str, receiver: Receiver
) -> None:
    start(api, receiver.order(counter, to=4, pause=0.4))
    first, *_, last = [message.run for message in receiver.until_over()]
    assert first["status"] == "processing"
    assert first["output"] == ["0 "]
    assert last["status"] == "succeeded"
    assert last["output"] == ["0 ", "1 ", "2 ", "3 "]


def test_only_what_the_filter_names_is_told(api: Api, counter: str, receiver: Receiver) -> None:
    start(api, receiver.order(counter, "start", "completed", to=3, pause=0.3))
    begun, ended = [message.run for message in receiver.until_over()]
    assert (begun["status"], begun["output"]) == ("processing", None)
    assert ended["status"] == "succeeded"


def test_logs_are_told_while_the_model_runs(api: Api, actor: str, receiver: Receiver) -> None:
    start(api, receiver.order(actor, "logs", text="x", act="sleep", seconds=1))
    (first, *_) = receiver.until(bool)
    assert first.run["status"] == "processing"
    assert "asked to sleep" in first.run["logs"]


def test_output_that_comes_fast_is_told_seldom_but_to_the_last(
    api: Api, counter: str, receiver: Receiver
) -> None:
    start(api, receiver.order(counter, "output", to=20, pause=0.05))
    messages = receiver.until(lambda got: bool(got) and len(got[-1].run["output"]) == 20)
    assert 1 < len(messages) < 8
    assert len({message.id for message in messages}) == len(messages)


def test_nothing_comes_after_the_end(api: Api, counter: str, receiver: Receiver) -> None:
    events = ("start", "output", "logs", "completed")
    start(api, receiver.order(counter, *events, to=30))
    statuses = [message.run["status"] for message in receiver.until_over()]
    assert statuses.count("succeeded") == 1
    assert statuses[-1] == "succeeded"


def test_the_end_is_told_again_until_it_is_taken(
    hasty: Api, hasty_actor: str, receiver: Receiver
) -> None:
    receiver.answers = [500, 404, 200]
    start(hasty, receiver.order(hasty_actor, "completed", text="x"))
    messages = receiver.until(lambda got: len(got) == 3)
    time.sleep(1)
    assert len(messages) == 3
    assert len({(message.id, message.raw) for message in messages}) == 1
    for message in messages:
        Webhook(hasty.server.webhook_secret).verify(message.raw, message.headers)


def test_the_end_reaches_a_receiver_that_comes_late(hasty: Api, hasty_actor: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        receiver = Receiver(port=free.getsockname()[1])
    hasty.end(start(hasty, receiver.order(hasty_actor, "completed", text="x")))
    receiver.start()
    try:
        assert receiver.until(bool)[0].run["status"] == "succeeded"
    finally:
        receiver.stop()


def test_what_is_not_the_end_is_told_once(hasty: Api, hasty_actor: str, receiver: Receiver) -> None:
    receiver.answers = [500]
    start(hasty, receiver.order(hasty_actor, "start", "completed", text="x"))
    messages = receiver.until_over()
    assert [message.run["status"] for message in messages] == ["processing", "succeeded"]


@pytest.mark.parametrize("status", [301, 302, 307])
def test_redirects_are_not_followed_and_not_tried_again(
    hasty: Api, hasty_actor: str, receiver: Receiver, status: int
) -> None:
    receiver.answers = [status]
    start(hasty, receiver.order(hasty_actor, text="x"))
    assert [message.path for message in receiver.until_over()] == ["/hook?of=me"]


def test_a_receiver_that_hangs_holds_up_no_run(api: Api, actor: str, receiver: Receiver) -> None:
    receiver.hanging = threading.Event()
    order = receiver.order(actor, "start", "completed", text="x")
    for _ in range(3):
        answer = api.http.post("/predictions", json=order, headers={"Prefer": "wait=5"})
        assert answer.json()["status"] == "succeeded"
    assert {message.run["status"] for message in receiver.got} == {"processing"}


def test_a_cancel_is_told(api: Api, actor: str, receiver: Receiver) -> None:
    run = start(api, receiver.order(actor, text="x", act="sleep"))
    api.http.post(run["urls"]["cancel"])
    (message,) = receiver.until_over()
    assert message.run["status"] == "canceled"


@pytest.mark.parametrize(("steps", "status"), [(0, "failed"), (1, "succeeded")])
def test_the_end_of_a_training_is_told(
    api: Api, actor: str, receiver: Receiver, steps: int, status: str
) -> None:
    api.model("local", f"told-{steps}")
    model, _, number = actor.partition(":")
    destination = {"destination": f"local/told-{steps}", "webhook": receiver.url}
    body = {"input": {"data": "data:,x", "steps": steps}, **destination}
    run = api.http.post(f"/models/{model}/versions/{number}/trainings", json=body).json()
    last = receiver.until_over()[-1]
    assert last.run["status"] == status
    assert last.raw == api.http.get(f"/trainings/{run['id']}").content


def test_a_stop_does_not_wait_for_deliveries(
    tmp_path: Path, client: Client, actor_folder: Path, receiver: Receiver
) -> None:
    receiver.hanging = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = Receiver(port=free.getsockname()[1])
    with LocalReplicate(tmp_path) as server:
        api = client(server)
        version = server.push(actor_folder, "acme/actor")
        for each in (receiver, dead):
            api.end(start(api, each.order(version, text="x")))
        receiver.until(bool)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 8


def test_what_ends_with_the_server_is_not_told(
    client: Client, actor_folder: Path, receiver: Receiver
) -> None:
    with LocalReplicate() as server:
        order = receiver.order(server.push(actor_folder, "acme/actor"), text="x", act="sleep")
        start(client(server), order | {"webhook_events_filter": ["start", "completed"]})
        receiver.until(bool)
    time.sleep(0.5)
    assert [message.run["status"] for message in receiver.got] == ["processing"]


def test_a_proxy_of_the_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch, client: Client, actor_folder: Path, receiver: Receiver
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with LocalReplicate() as server:
        order = receiver.order(server.push(actor_folder, "acme/actor"), text="x")
        headers = {"Authorization": f"Bearer {server.token}"}
        api = client(server)
        api.http = type(api.http)(
            base_url=f"{server.base_url}/v1", headers=headers, trust_env=False
        )
        start(api, order)
        assert receiver.until(bool)[0].run["status"] == "succeeded"


@pytest.mark.parametrize(
    "url",
    ["", "ftp://example.com/", "example.com/hook", "http://", "https://x:99999/", "http://[::1/"],
)
def test_a_webhook_goes_to_http_or_https(api: Api, actor: str, url: str) -> None:
    body = {"version": actor, "input": {"text": "x"}, "webhook": url}
    response = api.http.post("/predictions", json=body)
    assert response.status_code == 422
    assert response.json()["invalid_fields"][0]["field"] == "webhook"


def test_the_secret_is_asked_for_and_kept_for_a_later_server(
    tmp_path: Path, client: Client
) -> None:
    with LocalReplicate(tmp_path) as server:
        secret = client(server).http.get("/webhooks/default/secret").json()
        assert secret == {"key": server.webhook_secret}
        Webhook(server.webhook_secret)
    (file,) = [path for path in tmp_path.iterdir() if path.name == "webhook_secret"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with LocalReplicate(tmp_path) as server:
        assert server.webhook_secret == secret["key"]
    with LocalReplicate() as other:
        assert other.webhook_secret != secret["key"]
