"""The engine's thread sees the Prefect of its caller: server, settings, run, logger."""

import threading
from uuid import UUID

import pytest
from prefect import flow, get_client, runtime, task
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Cancelling

from prefect_replicate import (
    JobCanceled,
    LedgerError,
    LocalReplicate,
    ReplicateCredentials,
    arun_model,
    create_prediction,
    run_model,
    wait_for_prediction,
)
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.flow_run import flow_run_id, run_logger
from prefect_replicate.settings import ReplicateSettings
from tests.tasks.conftest import jobs


async def _api_url() -> str:
    return str((await engine().prefect_client()).api_url)


async def _client() -> int:
    return id(await engine().prefect_client())


def test_the_prefect_client_is_that_of_the_callers_settings(prefect_server: None) -> None:
    here = get_current_settings().api.url
    assert here
    assert engine().run(_api_url).rstrip("/") == here.rstrip("/")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert engine().run(_api_url).rstrip("/") == "http://127.0.0.1:9/api"
    assert engine().run(_api_url).rstrip("/") == here.rstrip("/")


def test_one_server_with_two_passwords_is_two_clients(prefect_server: None) -> None:
    one = engine().run(_client)
    assert engine().run(_client) == one
    with temporary_settings({PREFECT_API_AUTH_STRING: "admin:pass"}):
        assert engine().run(_client) != one


def test_the_engine_knows_the_run_that_calls(prefect_server: None) -> None:
    async def who() -> tuple[UUID | None, str]:
        return flow_run_id(), run_logger().name

    @task
    def inner() -> tuple[UUID | None, str]:
        return engine().run(who)

    @flow
    def outer() -> tuple[tuple[UUID | None, str], tuple[UUID | None, str], str]:
        return engine().run(who), inner(), str(runtime.flow_run.id)

    in_flow, in_task, flow_run = outer()
    assert (str(in_flow[0]), in_flow[1]) == (flow_run, "prefect.flow_runs")
    assert (str(in_task[0]), in_task[1]) == (flow_run, "prefect.task_runs")
    assert engine().run(who) == (None, "prefect.prefect_replicate")


def test_a_run_canceled_in_the_ui_cancels_its_job_though_nothing_is_raised_in_its_thread(
    prefect_server: None,
    credentials: ReplicateCredentials,
    replicate: LocalReplicate,
    tiny_model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_LOOK_EVERY", "0.2")
    assert ReplicateSettings().look_every == 0.2
    sleep = {"do": "sleep", "number": 97}

    @flow
    def sleeper() -> None:
        threading.Thread(target=_cancel, args=(runtime.flow_run.id, replicate, sleep)).start()
        run_model.submit(tiny_model, sleep, credentials=credentials).result()

    with pytest.raises(JobCanceled, match=r"flow run is being canceled.*was canceled"):
        sleeper()
    assert next(job for job in jobs(replicate) if job["input"] == sleep)["status"] == "canceled"


def _cancel(flow_run: str, replicate: LocalReplicate, input: dict[str, object]) -> None:
    """What the UI's button does, once the job is under way."""
    waiting = threading.Event()
    while not any(job["input"] == input for job in jobs(replicate)):
        waiting.wait(0.05)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run), Cancelling(), force=True)


def test_a_prefect_server_that_is_gone_does_not_cost_the_job(
    prefect_server: None,
    credentials: ReplicateCredentials,
    tiny_model: str,
    unused_tcp_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_LOOK_EVERY", "0.1")
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    slow = {"do": "sleep", "number": 1}

    @flow
    def sleeper() -> object:
        started = create_prediction.fn(tiny_model, slow, credentials=credentials)
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{unused_tcp_port}/api"}):
            return wait_for_prediction.fn(started, credentials=credentials)

    assert getattr(sleeper(), "status", None) == "succeeded"


def test_nothing_is_submitted_while_the_ledger_cannot_be_written(
    prefect_server: None,
    credentials: ReplicateCredentials,
    replicate: LocalReplicate,
    tiny_model: str,
    unused_tcp_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    before = len(jobs(replicate))

    @flow
    def asking() -> None:
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{unused_tcp_port}/api"}):
            run_model.fn(tiny_model, {}, credentials=credentials)

    with pytest.raises(LedgerError, match="Nothing was submitted"):
        asking()
    assert len(jobs(replicate)) == before


async def test_a_task_that_timed_out_has_a_job_of_its_own_when_it_is_retried(
    prefect_server: None,
    credentials: ReplicateCredentials,
    replicate: LocalReplicate,
    tiny_model: str,
) -> None:
    before = len(jobs(replicate))

    @task(retries=1, timeout_seconds=3)
    async def asking() -> object:
        made = await arun_model.fn(tiny_model, {"text": "in time"}, credentials=credentials)
        return made.output

    @flow
    async def asked() -> object:
        return await asking()

    with replicate.fault("cold_boot", seconds=60, model="local/tiny"):
        assert await asked() == "in time"
    late, first = jobs(replicate)[: len(jobs(replicate)) - before]
    assert (late["status"], first["status"]) == ("succeeded", "canceled")
