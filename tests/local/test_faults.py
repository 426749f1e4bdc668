"""What goes wrong on purpose, and what the server received meanwhile."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from prefect_replicate.local import Fault, LocalReplicate
from prefect_replicate.local.faults import KINDS, Faults
from prefect_replicate.local.received import RequestLog
from tests.local.conftest import Api
from tests.local.receiver import OVER, Receiver

CREATE = {"method": "POST", "path": "/predictions"}


@pytest.fixture(autouse=True)
def clean(server: LocalReplicate) -> Iterator[None]:
    server.clear_requests()
    yield
    server.clear_faults()


def order(version: str, **input: Any) -> dict[str, Any]:
    return {"version": version, "input": {"text": "hello", **input}}


def struck(faults: Faults, count: int, now: float = 0.0, **thing: str) -> list[bool]:
    thing = {"method": "GET", "path": "/account", **thing}
    return [faults.strike("request", now, **thing) is not None for _ in range(count)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [1, 0, 0, 0, 0, 0]),
        ({"times": None}, [1, 1, 1, 1, 1, 1]),
        ({"times": 2, "after": 1}, [0, 1, 1, 0, 0, 0]),
        ({"times": None, "every": 2}, [1, 0, 1, 0, 1, 0]),
        ({"times": 2, "every": 3, "after": 1}, [0, 1, 0, 0, 1, 0]),
        ({"path": "/acc*"}, [1, 0, 0, 0, 0, 0]),
        ({"path": "/v1/account", "method": "get"}, [1, 0, 0, 0, 0, 0]),
        ({"path": "/predictions"}, [0, 0, 0, 0, 0, 0]),
        ({"method": "POST"}, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_a_fault_strikes_as_often_as_it_says(schedule: dict[str, Any], expected: list[int]) -> None:
    faults = Faults()
    faults.add(Fault(kind="drop_before", **schedule), 0.0)
    assert struck(faults, 6) == list(map(bool, expected))


def test_a_fault_strikes_in_its_time_only() -> None:
    faults = Faults()
    faults.add(Fault(kind="drop_before", times=None, begin=2, lasting=3), 10.0)
    assert [struck(faults, 1, now)[0] for now in (10, 11.9, 12, 14.9, 15)] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_one_fault_strikes_at_a_time_and_the_next_when_it_is_done() -> None:
    faults = Faults()
    faults.add(Fault(kind="drop_before"), 0.0)
    faults.add(Fault(kind="slow", seconds=1), 0.0)
    asked = {"method": "GET", "path": "/x"}
    kinds = [faults.strike("request", 0.0, **asked) for _ in range(3)]
    assert [kind and kind.kind for kind in kinds] == ["drop_before", "slow", None]


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "explode"},
        {"kind": "slow", "size": 3},
        {"kind": "lose", "path": "/predictions"},
        {"kind": "drop_after", "model": "acme/x"},
        {"kind": "slow", "seconds": -1},
        {"kind": "repeat", "copies": 1},
    ],
)
def test_a_fault_that_cannot_be_is_refused(fields: dict[str, Any], api: Api) -> None:
    with pytest.raises(ValidationError):
        Fault(**fields)
    response = api.http.post(f"{api.server.base_url}/_local/faults", json=fields)
    assert response.status_code == 422
    assert response.json()["invalid_fields"]


def test_a_connection_that_breaks_before_has_done_nothing(api: Api, actor: str) -> None:
    before = api.http.get("/predictions").json()["results"]
    with api.server.fault("drop_before", **CREATE) as fault:
        with pytest.raises(httpx.TransportError):
            api.http.post("/predictions", json=order(actor))
        assert fault.struck == 1
        assert api.http.get("/predictions").json()["results"][:1] == before[:1]


def test_a_connection_that_breaks_after_has_done_all(api: Api, actor: str) -> None:
    with api.server.fault("drop_after", **CREATE), pytest.raises(httpx.TransportError):
        api.http.post("/predictions", json=order(actor, text="kept"))
    newest = api.http.get("/predictions").json()["results"][0]
    assert newest["input"]["text"] == "kept"
    assert api.end(newest)["output"] == "base: kept"


def test_what_was_asked_may_be_done_after_the_connection_broke(api: Api, actor: str) -> None:
    def newest() -> str:
        found = api.http.get("/predictions").json()["results"]
        return str(found[0]["input"].get("text")) if found else ""

    with api.server.fault("drop_and_do", seconds=3, **CREATE):
        with pytest.raises(httpx.TransportError):
            api.http.post("/predictions", json=order(actor, text="late"))
        assert newest() != "late"
    give_up = time.monotonic() + 20
    while newest() != "late":
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.parametrize("form", ["header", "body", "text", "none"])
def test_a_429_says_when_to_come_again_in_any_of_three_forms(api: Api, form: str) -> None:
    with api.server.fault("throttle", form=form, retry_after=7, times=2):
        first, second = api.http.get("/account"), api.http.get("/account")
    assert first.status_code == second.status_code == 429
    assert api.http.get("/account").status_code == 200
    said = {
        "header": first.headers.get("retry-after") == "7",
        "body": first.json().get("retry_after") == 7,
        "text": "~7s" in first.json()["detail"],
    }
    assert [name for name, is_said in said.items() if is_said] == ([] if form == "none" else [form])


def test_accounts_with_little_or_no_credit_are_told_so(api: Api, actor: str) -> None:
    with api.server.fault("low_credit", retry_after=5):
        low = api.http.post("/predictions", json=order(actor))
    with api.server.fault("no_credit"):
        none = api.http.post("/predictions", json=order(actor))
    assert low.status_code == 429
    assert low.json()["retry_after"] == 5
    assert "credit" in low.json()["detail"]
    assert none.status_code == 402
    assert none.json()["title"] == "Insufficient credit"


@pytest.mark.parametrize("accepted", [False, True])
def test_a_gateway_that_fails_answers_a_page_and_may_have_passed_it_on(
    api: Api, actor: str, accepted: bool
) -> None:
    text = f"through the gateway {accepted}"
    with api.server.fault("bad_gateway", accepted=accepted, **CREATE):
        response = api.http.post("/predictions", json=order(actor, text=text))
    assert response.status_code == 502
    assert response.headers["content-type"].startswith("text/html")
    newest = api.http.get("/predictions").json()["results"][:1]
    assert (newest != [] and newest[0]["input"].get("text") == text) is accepted


def test_an_answer_may_be_slow(api: Api) -> None:
    with api.server.fault("slow", seconds=0.4), pytest.raises(httpx.ReadTimeout):
        api.http.get("/account", timeout=0.2)
    with api.server.fault("slow", seconds=0.1):
        assert api.http.get("/account").status_code == 200


def test_json_may_be_cut_off(api: Api) -> None:
    broken = pytest.raises(httpx.RemoteProtocolError, match="peer closed")
    with api.server.fault("truncate", size=10), broken:
        api.http.get("/account")
    assert api.http.get("/account").json()["type"] == "user"


def test_an_answer_without_a_body_has_nothing_to_cut_off(api: Api) -> None:
    file = api.upload(b"x")
    with api.server.fault("truncate", method="DELETE"):
        assert api.http.delete(f"/files/{file['id']}").status_code == 204


def test_a_stream_may_end_in_the_middle_as_if_it_were_the_end(api: Api, counter: str) -> None:
    body = {"version": counter, "input": {"to": 30}}
    headers = {"Prefer": "wait"}
    stream = api.http.post("/predictions", json=body, headers=headers).json()["urls"]["stream"]

    def read() -> list[str]:
        with httpx.stream("GET", stream) as response:
            return [event.event for event in EventSource(response).iter_sse()]

    with api.server.fault("truncate", size=300, path="/streams/*"):
        cut = read()
    whole = read()
    assert whole[-1] == "done"
    assert len(whole) == 31
    assert "done" not in cut
    assert 0 < len(cut) < 15


def test_a_stream_that_is_read_by_nobody_holds_nobody_up(api: Api, counter: str) -> None:
    run = api.predict(counter, prefer="", to=20, pause=0.02)
    with api.server.fault("drop_and_do"), pytest.raises(httpx.TransportError):
        httpx.get(run["urls"]["stream"])
    assert api.end(run)["status"] == "succeeded"


def test_the_server_does_not_log_what_was_made_to_go_wrong(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("drop_before", "drop_after", "drop_and_do", "truncate"):
        with pytest.raises(httpx.TransportError):
            api.http.get("/account", headers={"Local-Fault": kind})
    with socket.create_connection((api.http.base_url.host, api.http.base_url.port)) as leaving:
        leaving.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n"
            b"Local-Fault: drop_and_do\r\n\r\nhalf"
        )
        _until(lambda: len(api.server.requests()[-1].body) == 4)
    time.sleep(0.1)
    assert [record.getMessage() for record in caplog.records if record.name != "httpx"] == []


def _until(happened: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_a_fault_does_not_outlive_a_server_that_is_stopped_meanwhile() -> None:
    server = LocalReplicate()
    with server, server.fault("drop_before", times=None):
        server.stop()
    with server:
        assert httpx.get(f"{server.base_url}/v1/account").status_code == 401


def test_one_request_may_ask_for_its_own_fault(api: Api) -> None:
    asked = {"Local-Fault": json.dumps({"kind": "throttle", "retry_after": 3})}
    assert api.http.get("/account", headers=asked).headers["retry-after"] == "3"
    assert api.http.get("/account").status_code == 200
    with pytest.raises(httpx.TransportError):
        api.http.get("/account", headers={"Local-Fault": "drop_after"})
    for wrong in ("explode", "fail", "{", '{"kind":' * 5000):
        assert api.http.get("/account", headers={"Local-Fault": wrong}).status_code == 400


def test_a_run_may_fail_without_a_reason(api: Api, actor: str) -> None:
    with api.server.fault("fail", model="acme/actor"):
        failed = api.predict(actor, text="never said")
    assert failed["status"] == "failed"
    assert failed["error"] is None
    with api.server.fault("fail", error="out of memory (E1001)", model="acme/other"):
        assert api.predict(actor, text="said")["status"] == "succeeded"


def test_a_client_that_waits_may_be_given_a_part_of_the_output(api: Api, counter: str) -> None:
    with api.server.fault("partial"):
        early = api.predict(counter, to=3, pause=0.5)
    assert early["status"] == "processing"
    assert early["output"] == ["0 "]
    assert api.end(early)["output"] == ["0 ", "1 ", "2 "]


def test_a_status_may_be_one_that_nobody_knows(api: Api, counter: str) -> None:
    with api.server.fault("odd_status", status="paused"):
        run = api.predict(counter, prefer="", to=2, pause=0.3)
    assert run["status"] == "paused"
    seen = set()
    while run["status"] not in OVER:
        seen.add(run["status"])
        run = api.http.get(run["urls"]["get"]).json()
    assert seen == {"paused"}
    assert run["status"] == "succeeded"


def test_a_boot_may_take_long(api: Api, actor: str) -> None:
    with api.server.fault("cold_boot", seconds=2):
        run = api.predict(actor, prefer="", text="hello")
        assert run["status"] == "starting"
        time.sleep(0.3)
        assert api.http.get(run["urls"]["get"]).json()["status"] == "starting"
    assert api.end(run)["metrics"]["total_time"] > 2


def test_data_may_be_gone_soon(api: Api, painter: str) -> None:
    with api.server.fault("expire", seconds=3):
        run = api.predict(painter, count=1)
    (picture,) = run["output"]
    assert httpx.get(picture).status_code == 200
    gone = api.until(run, lambda run: run["data_removed"])
    assert gone["output"] is None
    assert gone["input"] == {}
    assert gone["status"] == "succeeded"
    assert gone["metrics"] == run["metrics"]
    assert httpx.get(picture).status_code == 404


def verified(receiver: Receiver, api: Api) -> list[bool]:
    """Whether each message that came is genuine."""
    webhook = Webhook(api.server.webhook_secret)

    def genuine(raw: bytes, headers: dict[str, str]) -> bool:
        try:
            webhook.verify(raw, headers)
        except WebhookVerificationError:
            return False
        return True

    return [genuine(message.raw, message.headers) for message in receiver.got]


def hears(api: Api, receiver: Receiver, version: str, *events: str, **input: Any) -> dict[str, Any]:
    body = receiver.order(version, *events, **input)
    return dict(api.http.post("/predictions", json=body).json())


def test_webhooks_may_be_lost(api: Api, actor: str, receiver: Receiver) -> None:
    with api.server.fault("lose", event="completed", model="acme/actor"):
        api.end(hears(api, receiver, actor, "start", "completed", text="hello"))
        time.sleep(0.3)
    assert [message.run["status"] for message in receiver.got] == ["processing"]


def test_webhooks_may_come_late(api: Api, actor: str, receiver: Receiver) -> None:
    with api.server.fault("late", seconds=3, event="completed"):
        api.end(hears(api, receiver, actor, "completed", text="hello"))
        assert receiver.got == []
        receiver.until(lambda got: len(got) == 1)


def test_webhooks_may_come_more_than_once(api: Api, actor: str, receiver: Receiver) -> None:
    with api.server.fault("repeat", copies=3, event="completed"):
        hears(api, receiver, actor, "completed", text="hello")
        receiver.until(lambda got: len(got) == 3)
    assert len({message.id for message in receiver.got}) == 1
    assert verified(receiver, api) == [True] * 3


def test_webhooks_may_come_out_of_order(api: Api, actor: str, receiver: Receiver) -> None:
    with api.server.fault("reorder", event="start"):
        hears(api, receiver, actor, "start", "completed", text="hello")
        receiver.until(lambda got: len(got) == 2)
    assert [message.run["status"] for message in receiver.got] == ["succeeded", "processing"]
    assert verified(receiver, api) == [True, True]


@pytest.mark.parametrize("instead", [False, True])
def test_webhooks_may_be_forged(api: Api, actor: str, receiver: Receiver, instead: bool) -> None:
    with api.server.fault("forge", event="completed", instead=instead):
        api.end(hears(api, receiver, actor, "completed", text="hello", act="fail"))
        receiver.until(lambda got: len(got) == 1 if instead else len(got) == 2)
        time.sleep(0.1)
    assert verified(receiver, api) == ([False] if instead else [False, True])
    assert receiver.got[0].run["status"] == "succeeded"


def test_faults_are_set_and_taken_back_over_http(api: Api) -> None:
    control = f"{api.server.base_url}/_local/faults"
    made = api.http.post(control, json={"kind": "throttle", "path": "/hardware", "times": 5})
    assert made.status_code == 201
    assert api.http.get("/hardware").status_code == 429
    assert api.http.get("/account").status_code == 200
    (listed,) = api.http.get(control).json()
    assert listed["met"] == listed["struck"] == 1
    assert api.http.delete(f"{control}/{listed['id']}").json() == listed
    assert api.http.get("/hardware").status_code == 200
    assert api.http.delete(f"{control}/{listed['id']}").status_code == 404
    api.http.post(control, json={"kind": "no_credit"})
    assert api.http.delete(control).status_code == 204
    assert api.http.get("/hardware").status_code == 200


def test_nobody_without_the_token_may_break_anything(api: Api) -> None:
    for path in ("faults", "behaviour", "requests"):
        assert httpx.get(f"{api.server.base_url}/_local/{path}").status_code == 401
    asked = httpx.post(f"{api.server.base_url}/_local/reset", json={"models": True})
    assert asked.status_code == 401


def test_every_kind_is_described() -> None:
    told = Fault.__doc__ or ""
    assert [kind for kind in KINDS if f"{kind}: " not in told] == []


def test_every_request_can_be_read_back(api: Api, actor: str) -> None:
    made = api.predict(actor, text="counted")
    with api.server.fault("drop_before", **CREATE), pytest.raises(httpx.TransportError):
        api.http.post("/predictions", json=order(actor, text="dropped"))
    api.http.get("/predictions", params={"source": "web"})
    first, second = api.server.requests("POST", "/predictions")
    assert json.loads(first.body)["input"]["text"] == "counted"
    assert first.status == 201
    assert first.path == "/v1/predictions"
    assert first.headers["prefer"] == "wait"
    assert json.loads(second.body)["input"]["text"] == "dropped"
    assert (second.status, second.fault) == (None, "drop_before")
    assert api.server.requests("GET", "/v1/predictions")[0].query == "source=web"
    assert first.time < second.time
    told = api.http.get(f"{api.server.base_url}/_local/requests", params={"method": "POST"}).json()
    assert [each["number"] for each in told] == [first.number, second.number]
    assert made["id"] not in str(told)
    api.http.delete(f"{api.server.base_url}/_local/requests")
    assert api.server.requests() == []


def test_the_token_is_in_no_note(api: Api) -> None:
    token = api.server.token
    api.http.get("/predictions", params={"q": token})
    api.http.post(f"/{token}", content=token, headers={"X-Mine": token})
    noted = [each.to_json() for each in api.server.requests()]
    assert len(noted) == 2
    assert token not in str(noted)
    assert "authorization" not in str(noted)


def test_a_request_is_found_whose_path_has_the_token_in_it() -> None:
    log = RequestLog("acme")
    log.begin(datetime.now(UTC), "GET", "/v1/models/acme/actor", b"", {})
    assert len(log.find("GET", "/models/acme/actor")) == 1


def test_long_bodies_are_noted_in_part(api: Api) -> None:
    api.http.post("/files", files={"content": b"x" * 1_000_000})
    (noted,) = api.server.requests("POST", "/files")
    assert len(noted.body) == 64 * 1024
    assert noted.size > 1_000_000
