"""The receiver behind a real HTTP server, and its mail on a real Prefect server."""

import asyncio
import base64
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRunInput
from prefect.settings import PREFECT_API_URL, temporary_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from prefect_replicate.api.errors import ConfigurationError
from prefect_replicate.blocks.credentials import ReplicateCredentials
from prefect_replicate.blocks.webhook import ReplicateWebhook
from prefect_replicate.webhooks import receiver
from prefect_replicate.webhooks.mailbox import new_mail_key
from prefect_replicate.webhooks.receiver import Receiver
from prefect_replicate.webhooks.signatures import sign
from tests.webhooks.conftest import serving

SECRET = "whsec_" + base64.b64encode(b"the secret that must not be seen").decode()
OTHER = "whsec_" + base64.b64encode(b"what somebody else signs with").decode()
JOB = {
    "id": "abc123",
    "status": "succeeded",
    "metrics": {"predict_time": 2.5},
    "output": "a text that must not be kept",
    "input": {"prompt": "neither"},
    "error": None,
}
Rows = Callable[[], list[FlowRunInput]]


def _always(secret: str) -> Callable[[], Awaitable[str]]:
    async def fetch() -> str:
        return secret

    return fetch


@pytest.fixture(scope="module")
def base_url(prefect_server: None) -> Iterator[str]:
    """One receiver for the tests that need nothing special of it."""
    with serving(Receiver(_always(SECRET))) as url:
        yield url


@pytest.fixture
def mailbox(base_url: str, flow_run_id: UUID) -> str:
    """Where mail about one job goes."""
    return f"{base_url}/{flow_run_id}/{new_mail_key()}"


@dataclass
class Webhook:
    """What Replicate would send; a test changes what it is about."""

    job: dict[str, Any] = field(default_factory=lambda: dict(JOB))
    secret: str = SECRET
    age: float = 0.0

    def send(
        self, url: str, *, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        content = json.dumps(self.job).encode()
        at = datetime.now(UTC) - timedelta(seconds=self.age)
        signed = sign(self.secret, "msg_1", at, content)
        return httpx.post(
            url, content=content if body is None else body, headers=signed | (headers or {})
        )


def test_a_genuine_webhook_is_in_the_mailbox_without_what_the_job_made(
    mailbox: str, rows: Rows
) -> None:
    answer = Webhook().send(mailbox)
    assert (answer.status_code, answer.text) == (200, "Kept.\n")
    (mail,) = rows()
    assert mail.key == f"{mailbox.rpartition('/')[2]}-abc123-succeeded"
    assert json.loads(mail.value) == {
        "v": 1,
        "id": "abc123",
        "status": "succeeded",
        "metrics": {"predict_time": 2.5},
    }


def test_the_same_webhook_twice_is_kept_once_and_welcome_twice(mailbox: str, rows: Rows) -> None:
    assert [Webhook().send(mailbox).text for _ in range(2)] == ["Kept.\n", "Known.\n"]
    assert len(rows()) == 1


def test_of_the_same_webhook_many_times_at_once_one_is_kept(
    base_url: str, flow_run_id: UUID, rows: Rows
) -> None:
    with serving(Receiver(_always(SECRET))) as another:
        place = f"{flow_run_id}/{new_mail_key()}"
        urls = [f"{base}/{place}" for base in (base_url, another) for _ in range(5)]
        with ThreadPoolExecutor(len(urls)) as pool:
            answers = list(pool.map(Webhook().send, urls))
    assert sorted(answer.text for answer in answers) == ["Kept.\n"] + ["Known.\n"] * 9
    assert len(rows()) == 1


@pytest.mark.parametrize("status", ["failed", "canceled", "aborted"])
def test_every_end_of_a_job_is_kept(mailbox: str, rows: Rows, status: str) -> None:
    assert Webhook(JOB | {"status": status}).send(mailbox).status_code == 200
    assert [row.key.rpartition("-")[2] for row in rows()] == [status]


@pytest.mark.parametrize("status", ["starting", "processing", "something-new"])
def test_what_is_not_the_end_is_verified_and_not_kept(
    mailbox: str, rows: Rows, status: str
) -> None:
    webhook = Webhook(JOB | {"status": status})
    assert webhook.send(mailbox).text.startswith("Verified.")
    webhook.secret = OTHER
    assert webhook.send(mailbox).status_code == 401
    assert rows() == []


def test_fields_that_are_null_or_odd_cost_no_mail(mailbox: str, rows: Rows) -> None:
    job: dict[str, Any] = {
        "id": "abc123",
        "status": "canceled",
        "metrics": None,
        "logs": 7,
        "new": [{}],
    }
    assert Webhook(job).send(mailbox).status_code == 200
    assert json.loads(rows()[0].value)["metrics"] == {}


@pytest.mark.parametrize(
    ("webhook", "body", "headers"),
    [
        (Webhook(secret=OTHER), None, {}),
        (Webhook(), json.dumps(JOB | {"status": "failed"}).encode(), {}),
        (Webhook(), json.dumps(JOB).encode() + b" ", {}),
        (Webhook(), b"", {}),
        (Webhook(), b"\xff\xfe", {}),
        (Webhook(), None, {"webhook-id": "msg_2"}),
        (Webhook(), None, {"webhook-timestamp": str(int(datetime.now(UTC).timestamp()) + 7)}),
        (Webhook(), None, {"webhook-timestamp": "yesterday"}),
        (Webhook(), None, {"webhook-timestamp": "9" * 30}),
        (Webhook(), None, {"webhook-timestamp": "NaN"}),
        (Webhook(age=301), None, {}),
        (Webhook(age=-305), None, {}),
        (Webhook(), None, {"webhook-signature": ""}),
        (Webhook(), None, {"webhook-signature": "v1"}),
        (Webhook(), None, {"webhook-signature": "v1,"}),
        (Webhook(), None, {"webhook-signature": "v1,not base64, at all"}),
        (Webhook(), None, {"webhook-signature": "v1,A"}),
        (Webhook(), None, {"webhook-signature": "v1," + "A" * 43 + "="}),
        (Webhook(), None, {"webhook-signature": ",".join("v1v1")}),
    ],
)
def test_what_is_forged_or_stale_is_refused_and_not_kept(
    mailbox: str, rows: Rows, webhook: Webhook, body: bytes | None, headers: dict[str, str]
) -> None:
    answer = webhook.send(mailbox, body=body, headers=headers)
    assert answer.status_code == 401
    assert 10 < len(answer.text) <= 301
    assert rows() == []


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_what_is_not_signed_is_refused(mailbox: str, rows: Rows, missing: str) -> None:
    content = json.dumps(JOB).encode()
    headers = sign(SECRET, "msg_1", datetime.now(UTC), content)
    # A header that the official clients once looked at proves nothing.
    headers["x-replicate-signature"] = headers.pop(missing)
    assert httpx.post(mailbox, content=content, headers=headers).status_code == 401
    assert rows() == []


def test_a_signature_of_another_version_is_not_taken_for_one_of_ours(
    mailbox: str, rows: Rows
) -> None:
    content = json.dumps(JOB).encode()
    headers = sign(SECRET, "msg_1", datetime.now(UTC), content)
    headers["webhook-signature"] = headers["webhook-signature"].replace("v1,", "v2,")
    assert httpx.post(mailbox, content=content, headers=headers).status_code == 401
    assert rows() == []


@pytest.mark.parametrize("before", ["v2,abc", "v1,!!!", "v1a,", "nonsense", "v1," + "A" * 43 + "="])
def test_one_right_signature_among_others_is_enough(mailbox: str, rows: Rows, before: str) -> None:
    content = json.dumps(JOB).encode()
    headers = sign(SECRET, "msg_1", datetime.now(UTC), content)
    headers["webhook-signature"] = f"{before} {headers['webhook-signature']} {before}"
    assert httpx.post(mailbox, content=content, headers=headers).status_code == 200
    assert len(rows()) == 1


def test_a_clock_that_is_a_little_off_is_forgiven_but_not_beyond_the_tolerance(
    flow_run_id: UUID, rows: Rows
) -> None:
    with serving(Receiver(_always(SECRET), tolerance=30)) as base:
        url = f"{base}/{flow_run_id}/{new_mail_key()}"
        assert Webhook(age=35).send(url).status_code == 401
        assert Webhook(age=-35).send(url).status_code == 401
        assert Webhook(age=20).send(url).status_code == 200
    assert len(rows()) == 1


@pytest.mark.parametrize(
    "body", [b"nothing", b"[]", b'"succeeded"', b"{}", b'{"id": 1}', b"[" * 5_000, b"\xef\xbb\xbf"]
)
def test_a_signed_body_that_is_no_job_is_said_to_be_none(
    mailbox: str, rows: Rows, body: bytes
) -> None:
    headers = sign(SECRET, "msg_1", datetime.now(UTC), body)
    answer = httpx.post(mailbox, content=body, headers=headers)
    assert (answer.status_code, rows()) == (400, [])


def test_mail_goes_to_the_last_two_segments_whatever_stands_before(
    flow_run_id: UUID, rows: Rows
) -> None:
    app = Starlette(routes=[Mount("/hooks", Receiver(_always(SECRET)))])
    with serving(app) as base:
        assert httpx.get(f"{base}/hooks/").status_code == 200
        for prefix in ("/hooks", "/hooks/any/depth"):
            url = f"{base}{prefix}/{flow_run_id}/{new_mail_key()}"
            assert Webhook().send(url).text == "Kept.\n"
    assert len(rows()) == 2


def test_a_mounted_receiver_that_is_not_told_of_a_restart_goes_on_all_the_same(
    flow_run_id: UUID, rows: Rows
) -> None:
    app = Starlette(routes=[Mount("/hooks", Receiver(_always(SECRET)))])
    for _ in range(2):
        with serving(app) as base:
            url = f"{base}/hooks/{flow_run_id}/{new_mail_key()}"
            assert Webhook().send(url).text == "Kept.\n"
    assert len(rows()) == 2


@pytest.mark.parametrize(
    "path", ["", f"{uuid4()}", f"{uuid4()}/key", f"no-uuid/{new_mail_key()}", "a/b?c=d"]
)
def test_a_path_that_is_no_mailbox_is_not_found(base_url: str, path: str) -> None:
    assert Webhook().send(f"{base_url}/{path}").status_code == 404


def test_a_flow_run_that_is_not_there_is_not_found(base_url: str) -> None:
    answer = Webhook().send(f"{base_url}/{uuid4()}/{new_mail_key()}")
    assert (answer.status_code, answer.text) == (404, "There is no such flow run.\n")


def test_a_body_beyond_the_limit_is_refused(mailbox: str, rows: Rows) -> None:
    job = JOB | {"output": "x" * receiver.MOST}
    assert Webhook(job).send(mailbox).status_code == 413
    assert rows() == []


def test_a_large_body_below_the_limit_is_welcome(mailbox: str, rows: Rows) -> None:
    job = JOB | {"output": "x" * (receiver.MOST - 1_000)}
    assert Webhook(job).send(mailbox).status_code == 200
    assert len(rows()) == 1


def test_it_says_that_it_is_up(base_url: str) -> None:
    answer = httpx.get(base_url)
    assert (answer.status_code, answer.text) == (200, "Webhooks of Replicate are received here.\n")
    assert httpx.head(base_url).status_code == 200


def test_other_methods_are_not_allowed(base_url: str, mailbox: str) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = httpx.request(method, mailbox)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert httpx.put(base_url).status_code == 405


def test_neither_body_nor_secret_is_in_the_log(
    mailbox: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        Webhook().send(mailbox)
        Webhook(secret=OTHER).send(mailbox)
    assert "401" in caplog.text or "refused" in caplog.text
    for secret in (SECRET, OTHER, mailbox.rpartition("/")[2], str(JOB["output"])):
        logged = [r.getMessage() for r in caplog.records if r.name.endswith("prefect_replicate")]
        assert logged
        assert not [line for line in logged if secret.removeprefix("whsec_") in line]


def test_a_prefect_server_that_is_down_lets_replicate_send_again(
    flow_run_id: UUID, rows: Rows, unused_tcp_port: int
) -> None:
    app, url = Receiver(_always(SECRET)), f"/{flow_run_id}/{new_mail_key()}"
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{unused_tcp_port}/api"}),
        serving(app) as base,
    ):
        answer = Webhook().send(base + url)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    # The same app on another loop, and with a server that is up.
    with serving(app) as base:
        assert Webhook().send(base + url).status_code == 200
    assert len(rows()) == 1


def test_a_prefect_server_that_does_not_answer_is_not_waited_for(flow_run_id: UUID) -> None:
    async def never(_: Request) -> Response:
        await asyncio.sleep(1)
        return Response()

    slow = Starlette(routes=[Route("/{path:path}", never, methods=["GET", "POST"])])
    with (
        serving(slow) as prefect,
        temporary_settings({PREFECT_API_URL: f"{prefect}/api"}),
        serving(Receiver(_always(SECRET), within=0.3)) as base,
    ):
        answer = Webhook().send(f"{base}/{flow_run_id}/{new_mail_key()}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_a_sender_that_does_not_send_is_not_waited_for_and_one_that_hangs_up_does_no_harm(
    flow_run_id: UUID, rows: Rows
) -> None:
    with serving(Receiver(_always(SECRET), within=0.3)) as base:
        url = httpx.URL(f"{base}/{flow_run_id}/{new_mail_key()}")
        head = f"POST {url.path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 100\r\n\r\n{{"
        for wait in (False, True):
            with socket.create_connection((url.host, url.port or 0)) as sender:
                sender.sendall(head.encode())
                answer = sender.recv(100) if wait else b""
        assert answer.startswith(b"HTTP/1.1 503")
        assert httpx.get(base).status_code == 200
    assert rows() == []


@dataclass
class Api:
    """As much of Replicate's API as gives the secret."""

    key: str
    status: int = 200
    asked: int = 0

    async def secret(self, request: Request) -> Response:
        assert request.headers["authorization"] == "Bearer r8_mine"
        self.asked += 1
        return JSONResponse({"key": self.key}, self.status)


@pytest.fixture
def api() -> Api:
    """What the tests below change while it is asked."""
    return Api(SECRET)


@pytest.fixture
def fetching(api: Api, flow_run_id: UUID) -> Iterator[str]:
    """A mailbox at a receiver that fetches its secret."""
    with serving(Starlette(routes=[Route("/v1/webhooks/default/secret", api.secret)])) as url:
        credentials = ReplicateCredentials(api_token="r8_mine", base_url=url)
        webhook = ReplicateWebhook(public_url="https://x.example", credentials=credentials)
        with serving(webhook.receiver()) as base:
            yield f"{base}/{flow_run_id}/{new_mail_key()}"


def test_the_secret_is_fetched_once(api: Api, fetching: str, rows: Rows) -> None:
    assert [Webhook().send(fetching).status_code for _ in range(3)] == [200] * 3
    assert (api.asked, len(rows())) == (1, 1)


def test_a_secret_that_was_rotated_is_fetched_anew(
    api: Api, fetching: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "REFRESH_EVERY", 0.0)
    assert Webhook().send(fetching).status_code == 200
    api.key = OTHER
    assert Webhook(JOB | {"status": "failed"}, secret=OTHER).send(fetching).status_code == 200
    assert Webhook(secret=SECRET).send(fetching).status_code == 401
    assert len(rows()) == 2


def test_forgeries_do_not_make_it_ask_the_api_again_and_again(api: Api, fetching: str) -> None:
    assert Webhook().send(fetching).status_code == 200
    answers = [Webhook(secret=OTHER).send(fetching).status_code for _ in range(20)]
    assert answers == [401] * 20
    assert api.asked == 1


def test_while_there_is_no_secret_nothing_is_believed_and_the_api_is_not_hammered(
    api: Api, fetching: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.status = 401
    assert [Webhook().send(fetching).status_code for _ in range(5)] == [503] * 5
    assert (api.asked, rows()) == (1, [])
    api.status = 200
    monkeypatch.setattr(receiver, "RETRY_EVERY", 0.0)
    assert Webhook().send(fetching).status_code == 200


def test_while_the_secret_cannot_be_fetched_anew_the_old_one_counts(
    api: Api, fetching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "REFRESH_EVERY", 0.0)
    assert Webhook().send(fetching).status_code == 200
    api.status = 403
    assert Webhook(secret=OTHER).send(fetching).status_code == 401
    assert Webhook().send(fetching).status_code == 200


@pytest.mark.parametrize("secret", ["", "whsec_", "a secret of another make", "whsec_a"])
def test_a_secret_that_is_none_opens_no_door(
    flow_run_id: UUID, rows: Rows, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Receiver(_always(secret))) as base, caplog.at_level(logging.ERROR):
        answer = Webhook().send(f"{base}/{flow_run_id}/{new_mail_key()}")
    assert (answer.status_code, rows()) == (503, [])
    assert "The webhook secret is none" in caplog.text
    assert secret not in answer.text or not secret


def test_what_is_wrong_on_our_side_is_not_told_to_others(flow_run_id: UUID) -> None:
    async def fetch() -> str:
        raise ConfigurationError("the block 'of-mine' is not there")

    with serving(Receiver(fetch)) as base:
        answer = Webhook().send(f"{base}/{flow_run_id}/{new_mail_key()}")
    assert answer.status_code == 503
    assert "of-mine" not in answer.text
