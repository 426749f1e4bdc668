import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from prefect_replicate.local import Behaviour, LocalReplicate
from tests.local.conftest import Api, Client
from tests.local.receiver import Receiver


@pytest.fixture(scope="module")
def hasty() -> Iterator[Api]:
    """A server that tries again soon."""
    with LocalReplicate(behaviour=Behaviour(webhook_retries=(0.2, 0.4, 0.8, 1.6, 3.2))) as server:
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
