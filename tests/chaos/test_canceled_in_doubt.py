"""A call is canceled while nobody knows what its create made: nothing runs, nothing comes."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Cancelled

from prefect_replicate import JobCanceled, cancel_remote_jobs, run_model, sweep_jobs
from tests.chaos.conftest import Again, World
from tests.chaos.running import until

SLEEPY = {"do": "sleep", "number": 60}


@flow
def _any() -> None: ...


@pytest.fixture(autouse=True)
def _paying(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks and sweeps run where nothing is remembered."""
    monkeypatch.setenv("REPLICATE_API_TOKEN", world.replicate.token)
    monkeypatch.setenv("REPLICATE_BASE_URL", world.replicate.base_url)


def cancel(asks: Again) -> None:
    """As in the UI, with the hook; nobody raises anything in the flow."""
    assert asks.id
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(asks.id, Cancelled(), force=True)
        run = client.read_flow_run(asks.id)
    assert run.state
    asyncio.run(cancel_remote_jobs(_any, run, run.state))


@contextmanager
def asking(asks: Again) -> Iterator[Future[Any]]:
    """A flow that runs in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(asks.first)


def statuses(world: World) -> list[str]:
    return [job["status"] for job in world.jobs()]


def test_a_call_that_looks_for_a_job_that_was_never_made_makes_none_when_it_is_canceled(
    world: World,
) -> None:
    asks = Again(lambda: run_model(world.model, SLEEPY, credentials=world.credentials).output)
    cut = world.replicate.fault("drop_before", method="POST", path="*predictions")
    with cut, asking(asks) as asked:
        until(world.lists, lambda: str(world.creates()))
        cancel(asks)
        with pytest.raises(JobCanceled, match=r"canceled before.*Nothing was submitted"):
            asked.result(timeout=60)
    assert len(world.creates()) == 1
    assert world.jobs() == []


def test_a_create_that_is_answered_after_its_call_was_canceled_is_canceled(world: World) -> None:
    asks = Again(lambda: run_model(world.model, SLEEPY, credentials=world.credentials).output)
    slow = world.replicate.fault("slow", seconds=1.5, method="POST", path="*predictions")
    with slow, asking(asks) as asked:
        until(world.creates, lambda: str(asks.rows()))
        cancel(asks)
        with pytest.raises(JobCanceled):
            asked.result(timeout=60)
    assert len(world.creates()) == 1
    assert statuses(world) == ["canceled"]


def test_a_call_that_waits_for_its_turn_is_not_sent_when_it_is_canceled(world: World) -> None:
    asks = Again(lambda: run_model(world.model, SLEEPY, credentials=world.credentials).output)
    cut = world.replicate.fault("throttle", method="POST", path="*predictions", retry_after=2)
    with cut, asking(asks) as asked:
        until(world.creates, lambda: str(asks.rows()))
        cancel(asks)
        with pytest.raises(JobCanceled):
            asked.result(timeout=60)
    assert len(world.creates()) == 1
    assert world.jobs() == []


def test_who_runs_the_flow_again_after_a_cancel_in_doubt_gets_a_job(world: World) -> None:

    def ask() -> Any:
        return run_model(world.model, {"text": "hello"}, credentials=world.credentials).output

    asks = Again(ask)
    cut = world.replicate.fault("drop_before", method="POST", path="*predictions")
    with cut, asking(asks) as asked:
        until(world.lists, lambda: str(world.creates()))
        cancel(asks)
        with pytest.raises(JobCanceled):
            asked.result(timeout=60)
    assert asks.again() == "hello"
    assert len(world.creates()) == 2
    sweep_jobs()
    assert statuses(world) == ["succeeded"]
