"""Waiting to be told: Local Replicate signs and sends, a receiver in a process of its own takes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from prefect_replicate import (
    BadInputError,
    ConfigurationError,
    LocalReplicate,
    ModelError,
    Prediction,
    ReplicateCredentials,
    ReplicateWebhook,
    Training,
    acreate_prediction,
    arun_model,
    await_for_webhook,
    create_prediction,
    create_training,
    ensure_model,
    list_predictions,
    run_batch,
    run_model,
    train_model,
    upload_file,
    wait_for_prediction,
    wait_for_webhook,
)
from prefect_replicate.webhooks.mailbox import address_of
from prefect_replicate.webhooks.signatures import sign

# Longer than any test here may take: whoever is not told by then has not been told.
NEVER = "600"


@pytest.fixture(scope="module")
def receiver(
    prefect_server: None, replicate: LocalReplicate, unused_tcp_port_factory: Any
) -> Iterator[str]:
    """The URL of a receiver in a process of its own; it fetches the secret as anybody would."""
    port = unused_tcp_port_factory()
    url = f"http://127.0.0.1:{port}/hooks"
    command = Path(sys.executable).with_name("prefect-replicate")
    process = subprocess.Popen(
        [command, "webhooks", "serve", "--port", str(port), "--public-url", url],
        env={
            **os.environ,
            "PREFECT_API_URL": get_current_settings().api.url or "",
            "REPLICATE_API_TOKEN": replicate.token,
            "REPLICATE_BASE_URL": replicate.base_url,
        },
    )
    try:
        _until(lambda: _answers(url) and process.poll() is None)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def webhook(
    receiver: str, credentials: ReplicateCredentials, monkeypatch: pytest.MonkeyPatch
) -> ReplicateWebhook:
    """A webhook to that receiver, for flows that do not poll within a test's time."""
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_POLL", NEVER)
    return ReplicateWebhook(public_url=receiver, credentials=credentials)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False


def _until(true: Any, within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


async def _mail(job: Prediction) -> list[str]:
    """The keys of what lies in a job's mailbox."""
    address = address_of(job.webhook or "")
    assert address
    async with get_client() as client:
        rows = await client.filter_flow_run_input(
            address.flow_run_id, key_prefix=address.key, limit=10, exclude_keys=set()
        )
    return [row.key for row in rows]


def _send(url: str, secret: str, job: Any, ago: float = 0.0, name: str = "msg_1") -> httpx.Response:
    body = json.dumps({"id": job.id, "status": "succeeded", "metrics": {}}).encode()
    headers = sign(secret, name, datetime.now(UTC) - timedelta(seconds=ago), body)
    return httpx.post(url, content=body, headers=headers)


def test_a_genuine_webhook_ends_the_wait(
    webhook: ReplicateWebhook, credentials: ReplicateCredentials, tiny_model: str
) -> None:
    @flow
    def told() -> Prediction:
        slow = {"do": "sleep", "number": 1}
        return run_model(tiny_model, slow, credentials=credentials, webhook=webhook)

    assert told().output == "hello"


async def test_a_subflow_that_is_run_again_is_told_though_its_flow_run_is_another_one(
    webhook: ReplicateWebhook, credentials: ReplicateCredentials, tiny_model: str
) -> None:
    runs: list[object] = []

    @flow(persist_result=False)
    async def inner() -> Prediction | Training:
        runs.append(flow_run.id)
        slow = {"do": "sleep", "number": 1, "text": "told again"}
        started = await acreate_prediction(
            tiny_model, slow, credentials=credentials, webhook=webhook
        )
        if len(runs) == 1:
            raise RuntimeError("while the job runs")
        return await await_for_webhook(started, credentials=credentials)

    @flow(retries=1)
    async def outer() -> Prediction | Training:
        return await inner()

    ended = await outer()
    address = address_of(ended.webhook or "")
    assert address
    assert str(address.flow_run_id) == runs[0] != runs[1]
    assert ended.output == "told again"


async def test_the_settings_say_where_the_receiver_is(
    webhook: ReplicateWebhook,
    credentials: ReplicateCredentials,
    tiny_model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_URL", webhook.public_url)

    @flow
    async def told() -> Prediction:
        return await arun_model(tiny_model, {}, credentials=credentials, wait="webhook")

    assert (await told()).output == "hello"


def test_a_training_and_each_of_a_batch_are_told_of_too(
    webhook: ReplicateWebhook, credentials: ReplicateCredentials, tiny_model: str
) -> None:
    data = {"training_data": upload_file(__file__, credentials=credentials).urls.get}
    ensure_model("local/told", credentials=credentials)

    @flow
    def told() -> tuple[str | None, list[Any]]:
        training = train_model(
            tiny_model, "local/told", data, credentials=credentials, webhook=webhook
        )
        inputs = [{"text": str(number)} for number in range(5)]
        batch = run_batch(tiny_model, inputs, credentials=credentials, webhook=webhook)
        return training.trained_version, [one.output for one in batch]

    version, outputs = told()
    assert version
    assert version.startswith("local/told:")
    assert outputs == ["0", "1", "2", "3", "4"]


async def test_what_was_started_can_be_waited_for_by_block_and_by_tasks(
    webhook: ReplicateWebhook, credentials: ReplicateCredentials, tiny_model: str
) -> None:
    @flow
    async def told() -> list[Prediction]:
        started = [
            create_prediction(tiny_model, {}, credentials=credentials, webhook=webhook)
            for _ in range(5)
        ]
        return [
            webhook.wait_for(started[0]),
            await webhook.await_for(started[1]),
            await await_for_webhook(started[2], credentials=credentials),  # type: ignore[list-item]
            wait_for_webhook(started[3].id, credentials=credentials),  # type: ignore[list-item]
            wait_for_prediction(started[4], credentials=credentials, wait="webhook"),
        ]

    ended = await told()
    assert [one.output for one in ended] == ["hello"] * 5


async def test_a_duplicate_is_taken_and_changes_nothing(
    webhook: ReplicateWebhook,
    replicate: LocalReplicate,
    credentials: ReplicateCredentials,
    tiny_model: str,
) -> None:
    @flow
    def told() -> Prediction:
        started = create_prediction(tiny_model, {}, credentials=credentials, webhook=webhook)
        webhook.wait_for(started)
        return started

    job = told()
    mail = await _mail(job)
    again = [_send(job.webhook or "", replicate.webhook_secret, job) for _ in range(2)]
    assert [answer.status_code for answer in again] == [200, 200]
    assert await _mail(job) == mail
    assert [key.rpartition("-")[2] for key in mail] == ["succeeded"]


async def test_forged_stale_and_misdirected_webhooks_end_no_wait(
    webhook: ReplicateWebhook,
    replicate: LocalReplicate,
    credentials: ReplicateCredentials,
    tiny_model: str,
) -> None:
    secret = replicate.webhook_secret

    @flow
    def told() -> tuple[Prediction, list[int], Prediction]:
        slow = {"do": "sleep", "number": 3}
        job = create_prediction(tiny_model, slow, credentials=credentials, webhook=webhook)
        other = create_prediction(tiny_model, {}, credentials=credentials)
        url = job.webhook or ""
        answers = [
            _send(url, "whsec_" + "A" * 32, job),
            _send(url, secret, job, ago=400),
            httpx.post(url, json={"id": job.id, "status": "succeeded"}),
            # Genuine, but about another job: whoever has seen one can send it anywhere.
            _send(url, secret, other),
        ]
        return job, [answer.status_code for answer in answers], webhook.wait_for(job)

    job, statuses, ended = told()
    assert statuses == [401, 401, 401, 200]
    assert ended.id == job.id
    assert ended.output == "hello"
    assert (ended.metrics["predict_time"]) > 2.5


def test_a_lost_webhook_is_made_up_for_by_a_slow_poll(
    prefect_server: None,
    credentials: ReplicateCredentials,
    tiny_model: str,
    unused_tcp_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_POLL", "1")
    nowhere = ReplicateWebhook(public_url=f"http://127.0.0.1:{unused_tcp_port}")

    @flow
    def told() -> Prediction:
        return run_model(tiny_model, {}, credentials=credentials, webhook=nowhere)

    assert told().output == "hello"


def test_a_failure_is_told_as_any_other(
    webhook: ReplicateWebhook, credentials: ReplicateCredentials, tiny_model: str
) -> None:
    @flow
    def told() -> None:
        wrong = {"do": "fail", "text": "no luck"}
        run_model(tiny_model, wrong, credentials=credentials, webhook=webhook)

    with pytest.raises(ModelError, match="no luck"):
        told()


def test_nothing_is_sent_where_nobody_could_be_told(
    credentials: ReplicateCredentials, tiny_model: str, webhook: ReplicateWebhook
) -> None:
    before = list_predictions(most=1, credentials=credentials)
    with pytest.raises(ConfigurationError, match="mailbox of a flow run"):
        run_model.fn(tiny_model, {}, credentials=credentials, webhook=webhook)
    with pytest.raises(BadInputError, match="'poll' or 'webhook', not 'post'"):
        run_model(tiny_model, {}, credentials=credentials, wait="post")  # type: ignore[call-overload]

    @flow
    def told() -> None:
        run_model(tiny_model, {}, credentials=credentials, wait="webhook")

    with pytest.raises(ConfigurationError, match="PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_URL"):
        told()
    assert list_predictions(most=1, credentials=credentials) == before


def test_a_job_without_a_webhook_is_polled(
    prefect_server: None,
    credentials: ReplicateCredentials,
    tiny_model: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = {"do": "sleep", "number": 1}

    @flow
    def told() -> Prediction | Training:
        started = create_prediction(tiny_model, slow, credentials=credentials)
        return wait_for_webhook(started, credentials=credentials)

    assert told().output == "hello"
    assert "not created with a webhook of ours" in caplog.text


def test_a_training_started_apart_is_waited_for_as_what_it_is(
    webhook: ReplicateWebhook, credentials: ReplicateCredentials, tiny_model: str
) -> None:
    data = {"training_data": upload_file(__file__, credentials=credentials).urls.get}
    ensure_model("local/told", credentials=credentials)

    @flow
    def told() -> Prediction | Training:
        started = create_training(
            tiny_model, "local/told", data, credentials=credentials, webhook=webhook
        )
        return wait_for_webhook(started, credentials=credentials)

    ended = told()
    assert isinstance(ended, Training)
    assert (ended.trained_version or "").startswith("local/told:")
