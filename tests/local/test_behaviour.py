"""Each place where Replicate's behaviour is not certain, under both behaviours."""

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from prefect_replicate.local import Behaviour, LocalReplicate
from tests.local.conftest import Api, write_model
from tests.local.receiver import Receiver


@pytest.fixture
def behaving(server: LocalReplicate) -> Iterator[LocalReplicate]:
    """The shared server, whose behaviour is as it was after the test."""
    with server.behaving():
        yield server


def create(api: Api, version: str, headers: dict[str, str] | None = None, **more: Any) -> Any:
    body = {"version": version, "input": {"text": "hello"}, **more}
    return api.http.post("/predictions", json=body, headers=headers)


@pytest.mark.parametrize("status", [201, 202])
def test_create_status(behaving: LocalReplicate, api: Api, actor: str, status: int) -> None:
    behaving.behave(create_status=status)
    assert create(api, actor).status_code == status


@pytest.mark.parametrize("status", ["starting", "processing"])
def test_held_status(behaving: LocalReplicate, api: Api, counter: str, status: str) -> None:
    behaving.behave(held_status=status)
    api.predict(counter, to=0)  # so that its worker is there
    run = api.predict(counter, "wait=2", to=3, pause=1.5)
    assert run["status"] == status
    assert (run["output"] is None) is (status == "starting")
    api.end(run)


@pytest.mark.parametrize(("long_wait", "status"), [("refuse", 422), ("cap", 201)])
def test_long_wait(
    behaving: LocalReplicate, api: Api, actor: str, long_wait: str, status: int
) -> None:
    behaving.behave(long_wait=long_wait)
    for seconds in (61, 70, 99):
        response = create(api, actor, {"Prefer": f"wait={seconds}"})
        assert response.status_code == status
        assert response.headers.get("preference-applied") == ("wait=60" if status == 201 else None)
    assert create(api, actor, {"Prefer": "wait=100"}).status_code == 422
    assert create(api, actor, {"Prefer": "wait=0"}).status_code == 422


@pytest.mark.parametrize(("bad", "status"), [("refuse", 422), ("ignore", 201)])
def test_bad_cancel_after(
    behaving: LocalReplicate, api: Api, actor: str, bad: str, status: int
) -> None:
    behaving.behave(bad_cancel_after=bad)
    for header in ("soon", "4s", "25h"):
        response = create(api, actor, {"Cancel-After": header})
        assert response.status_code == status
        assert "deadline" not in response.json()
    assert "deadline" in create(api, actor, {"Cancel-After": "5s"}).json()


@pytest.mark.parametrize(("ended", "status"), [("unchanged", 200), ("refuse", 422)])
def test_cancel_ended(
    behaving: LocalReplicate, api: Api, actor: str, ended: str, status: int
) -> None:
    behaving.behave(cancel_ended=ended)
    run = api.predict(actor, text="over")
    assert api.http.post(run["urls"]["cancel"]).status_code == status
    assert api.http.get(run["urls"]["get"]).json() == run


@pytest.mark.parametrize(("above", "status"), [("refuse", 422), ("accept", 200)])
def test_min_above_max(
    behaving: LocalReplicate, api: Api, actor: str, above: str, status: int
) -> None:
    behaving.behave(min_above_max=above)
    model, _, version = actor.partition(":")
    body = {"name": f"above-{above}", "model": model, "version": version, "hardware": "cpu"}
    counts = {"min_instances": 1, "max_instances": 0}
    response = api.http.post("/deployments", json={**body, **counts})
    assert response.status_code == status
    if status == 200:
        path = f"/deployments/local/above-{above}"
        assert api.http.patch(path, json={"min_instances": 0}).status_code == 200
        assert api.http.delete(path).status_code == 204


@pytest.mark.parametrize("status", [422, 409, 403])
def test_refusal_status(behaving: LocalReplicate, api: Api, actor: str, status: int) -> None:
    behaving.behave(refusal_status=status, deployment_rest=900)
    model, _, version = actor.partition(":")
    name = f"used-{status}"
    body = {"name": name, "model": model, "version": version, "hardware": "cpu"}
    api.http.post("/deployments", json={**body, "min_instances": 0, "max_instances": 1})
    refused = api.http.delete(f"/deployments/local/{name}")
    assert refused.status_code == refused.json()["status"] == status
    behaving.behave(deployment_rest=0)
    assert api.http.delete(f"/deployments/local/{name}").status_code == 204


@pytest.mark.parametrize("bare", [False, True])
def test_bare_forbidden(behaving: LocalReplicate, api: Api, actor: str, bare: bool) -> None:
    behaving.behave(bare_forbidden=bare)
    refused = api.http.delete("/models/acme/actor")
    assert refused.status_code == 403
    assert set(refused.json()) == ({"detail"} if bare else {"title", "detail", "status"})


@pytest.mark.parametrize(("insecure", "status"), [("accept", 201), ("refuse", 422)])
def test_insecure_webhook(
    behaving: LocalReplicate, api: Api, actor: str, receiver: Receiver, insecure: str, status: int
) -> None:
    behaving.behave(insecure_webhook=insecure)
    assert create(api, actor, webhook=receiver.url).status_code == status
    assert create(api, actor, webhook="https://127.0.0.1:1/hook").status_code == 201
    assert create(api, actor, webhook="ftp://127.0.0.1/hook").status_code == 422


@pytest.mark.parametrize(("legacy", "status"), [("refuse", 422), ("ignore", 201)])
def test_webhook_completed(
    behaving: LocalReplicate, api: Api, actor: str, legacy: str, status: int
) -> None:
    behaving.behave(webhook_completed=legacy)
    assert create(api, actor, webhook_completed="https://example.com").status_code == status
    assert create(api, actor, webhook_complete="https://example.com").status_code == 422


@pytest.mark.parametrize("echo", [True, False])
def test_webhook_echo(
    behaving: LocalReplicate, api: Api, actor: str, receiver: Receiver, echo: bool
) -> None:
    behaving.behave(webhook_echo=echo)
    more: dict[str, Any] = {"webhook": receiver.url, "webhook_events_filter": ["completed"]}
    run = create(api, actor, **more).json()
    assert more.items() <= run.items() if echo else not more.keys() & run.keys()
    (message,) = receiver.until(lambda got: len(got) == 1)
    assert message.run["status"] == "succeeded"
    assert ("webhook" in message.run) is echo


@pytest.mark.parametrize("replay", [True, False])
def test_stream_replay(behaving: LocalReplicate, api: Api, counter: str, replay: bool) -> None:
    behaving.behave(stream_replay=replay)
    stream = api.predict(counter, to=4)["urls"]["stream"]

    def read(**headers: str) -> list[Any]:
        with httpx.stream("GET", stream, headers=headers) as response:
            return list(EventSource(response).iter_sse())

    whole = read()
    rest = read(**{"Last-Event-ID": whole[1].id})
    assert [event.data for event in rest] == [event.data for event in whole[2 if replay else 0 :]]


TALKER = """
from typing import Iterator
from cog import BasePredictor

class Predictor(BasePredictor):
    def predict(self, text: str) -> Iterator[str]:
        for number in range(2):
            print(f"part {number}")
            yield text
"""


@pytest.fixture(scope="module")
def tiny(server: LocalReplicate, folders: Path) -> str:
    return server.push(write_model(folders / "talker", TALKER), "acme/talker")


@pytest.mark.parametrize("logs", [False, True])
def test_stream_logs(behaving: LocalReplicate, api: Api, tiny: str, logs: bool) -> None:
    behaving.behave(stream_logs=logs)
    run = api.predict(tiny, text="hi")
    with httpx.stream("GET", run["urls"]["stream"]) as response:
        events = list(EventSource(response).iter_sse())
    said = "\n".join(event.data for event in events if event.event == "logs")
    assert said.strip() == (run["logs"].strip() if logs else "")
    assert [event.data for event in events if event.event == "output"] == ["hi", "hi"]
    assert events[-1].event == "done"


@pytest.mark.parametrize("status", [404, 403, 410])
def test_expired_status(behaving: LocalReplicate, api: Api, painter: str, status: int) -> None:
    behaving.behave(expired_status=status, retention=0)
    picture = f"{behaving.base_url}/delivery/{'a' * 43}/gone.png"
    assert httpx.get(picture).status_code == status
    file = api.upload(b"soon gone")
    api.http.delete(f"/files/{file['id']}")
    assert api.http.get(f"/files/{file['id']}/download").status_code == status
    assert api.http.get(f"/files/{file['id']}").status_code == 404


def test_budgets_are_told_in_every_answer_of_the_api(api: Api, actor: str) -> None:
    other = api.http.get("/account").headers
    assert int(other["ratelimit-remaining"]) <= 2999
    assert other["ratelimit-reset"] == "1"
    assert int(create(api, actor).headers["ratelimit-remaining"]) <= 599
    assert "ratelimit-remaining" in api.http.get("/predictions/nobody").headers


@pytest.mark.parametrize("budget", [3000, 60000])
def test_get_budget(behaving: LocalReplicate, api: Api, actor: str, budget: int) -> None:
    behaving.behave(get_budget=budget)
    run = api.predict(actor, text="read")
    left = int(api.http.get(run["urls"]["get"]).headers["ratelimit-remaining"])
    assert (left > 3000) is (budget == 60000)


@pytest.mark.parametrize("header", [False, True])
def test_throttling(server_of_its_own: Api, header: bool) -> None:
    api = server_of_its_own
    api.server.behave(throttling=True, retry_after_header=header)
    statuses = [create(api, "a" * 64).status_code for _ in range(600)]
    assert set(statuses) == {422}
    # Ten more a second are allowed, which a slow machine may not use up at once.
    refused = next(
        answer for _ in range(5000) if (answer := create(api, "a" * 64)).status_code == 429
    )
    assert "resets in ~1s" in refused.json()["detail"]
    assert refused.headers.get("retry-after") == ("1" if header else None)
    assert api.http.get("/account").status_code == 200


def test_credit(behaving: LocalReplicate, api: Api, actor: str) -> None:
    behaving.behave(credit="none")
    assert create(api, actor).status_code == 402
    assert api.http.get("/account").status_code == 200
    behaving.behave(credit="low")
    refused = [create(api, actor) for _ in range(2)][-1]
    assert refused.status_code == 429
    assert 1 <= refused.json()["retry_after"] <= 10
    assert "credit" in refused.json()["detail"]


def test_retention(behaving: LocalReplicate, api: Api, painter: str, actor: str) -> None:
    run = api.predict(painter, count=2)
    behaving.behave(retention=0.2)
    gone = api.until(run, lambda run: run["data_removed"])
    assert (gone["input"], gone["output"], gone["logs"]) == ({}, None, "")
    assert gone["metrics"] == run["metrics"]
    assert [httpx.get(url).status_code for url in run["output"]] == [404, 404]
    assert gone in api.http.get("/predictions").json()["results"]


def test_data_that_nobody_looks_at_are_removed_too(
    behaving: LocalReplicate, api: Api, painter: str
) -> None:
    def is_there(url: str) -> bool:
        with suppress(httpx.RemoteProtocolError):  # it went while it was on its way
            return httpx.get(url).status_code == 200
        return False

    pictures = [api.predict(painter, count=1)["output"][0] for _ in range(3)]
    behaving.behave(retention=0.1)
    give_up = time.monotonic() + 30
    while any(map(is_there, pictures)):
        assert time.monotonic() < give_up
        time.sleep(0.2)


@pytest.mark.parametrize("lifts", [False, True])
def test_run_limit(behaving: LocalReplicate, api: Api, counter: str, lifts: bool) -> None:
    behaving.behave(run_limit=0.5, deadline_lifts_limit=lifts)
    body = {"version": counter, "input": {"to": 3, "pause": 0.4}}
    run = api.http.post("/predictions", json=body, headers={"Cancel-After": "60s"}).json()
    ended = api.end(run)
    assert ended["status"] == ("succeeded" if lifts else "failed")
    assert ended["error"] is None if lifts else "timed out" in ended["error"]


@pytest.mark.parametrize("kind", ["predictions", "trainings"])
def test_list_lag(behaving: LocalReplicate, api: Api, actor: str, kind: str) -> None:
    behaving.behave(list_lag=3)
    if kind == "predictions":
        run = create(api, actor).json()
    else:
        data = api.upload(b"text")["urls"]["get"]
        api.model("local", "lagging")
        run = api.train(actor, "local/lagging", data=data).json()
    assert api.http.get(f"/{kind}/{run['id']}").status_code == 200

    def listed() -> bool:
        found = api.http.get(f"/{kind}").json()["results"]
        return run["id"] in [each["id"] for each in found]

    assert not listed()
    api.until(run, lambda _: listed())
    api.end(run)


def test_clock_offset(behaving: LocalReplicate, api: Api, actor: str, receiver: Receiver) -> None:
    behaving.behave(clock_offset=-1000)
    response = create(api, actor, {"Cancel-After": "60s"}, webhook=receiver.url)
    expected = datetime.now(UTC) - timedelta(seconds=1000)
    run = response.json()
    told = [
        parsedate_to_datetime(response.headers["date"]),
        datetime.fromisoformat(run["created_at"]),
        datetime.fromisoformat(run["deadline"]) - timedelta(seconds=60),
    ]
    assert all(abs((moment - expected).total_seconds()) < 5 for moment in told)
    ended = api.end(run)
    assert ended["status"] == "succeeded"
    assert 0 < ended["metrics"]["total_time"] < 30
    message = receiver.until_over()[-1]
    assert abs(int(message.headers["webhook-timestamp"]) - expected.timestamp()) < 10
    with pytest.raises(WebhookVerificationError, match="old"):
        Webhook(behaving.webhook_secret).verify(message.raw, message.headers)


def test_a_signed_download_expires_by_the_servers_clock(behaving: LocalReplicate, api: Api) -> None:
    file = api.upload(b"signed")
    expiry = int(time.time()) + 100
    said = f"local {file['id']} {expiry}".encode()
    signature = base64.b64encode(
        hmac.digest(behaving.files_secret.encode(), said, hashlib.sha256)
    ).decode()
    query: dict[str, Any] = {"owner": "local", "expiry": expiry, "signature": signature}
    assert api.http.get(f"/files/{file['id']}/download", params=query).content == b"signed"
    behaving.behave(clock_offset=200)
    assert api.http.get(f"/files/{file['id']}/download", params=query).status_code == 404


def test_switches_are_read_and_changed_over_http(behaving: LocalReplicate, api: Api) -> None:
    control = f"{behaving.base_url}/_local/behaviour"
    assert api.http.get(control).json() == behaving.behaviour.model_dump(mode="json")
    changed = api.http.patch(control, json={"list_lag": 2.5})
    assert changed.json()["list_lag"] == behaving.behaviour.list_lag == 2.5
    too_long = {"retention": 1e12}  # no date is that far from now
    for wrong in ({"list_lag": -1}, {"colour": "red"}, {"held_status": "done"}, too_long):
        refused = api.http.patch(control, json=wrong)
        assert refused.status_code == 422
        assert refused.json()["invalid_fields"][0]["field"] == next(iter(wrong))
    with pytest.raises(ValidationError):
        behaving.behave(colour="red")
    assert behaving.behaviour.list_lag == 2.5


def test_every_switch_is_described_and_tried_here() -> None:
    described = Behaviour.__doc__ or ""
    here = open(__file__).read()  # noqa: PTH123, SIM115 - this file
    elsewhere = {"on_restart", "worker_rest", "webhook_retries", "stream_idle", "deployment_rest"}
    names = set(Behaviour.model_fields)
    assert [name for name in names if f"{name}: " not in described] == []
    assert [name for name in names - elsewhere if f"{name}=" not in here] == []


def test_a_reset_removes_what_clients_made(server_of_its_own: Api, actor_folder: Any) -> None:
    api = server_of_its_own
    version = api.server.push(actor_folder, "acme/actor")
    run = api.predict(version, prefer="", text="x", act="sleep")
    file = api.upload(b"content")
    api.server.reset()
    assert api.http.get("/predictions").json()["results"] == []
    assert api.http.get(run["urls"]["get"]).status_code == 404
    assert api.http.get(file["urls"]["get"]).status_code == 404
    assert api.predict(version, text="again")["status"] == "succeeded"
    assert len(api.server.requests("POST", "/predictions")) == 1
    reset = api.http.post(f"{api.server.base_url}/_local/reset", json={"models": True})
    assert reset.status_code == 204
    assert api.http.get("/models").json()["results"] == []
