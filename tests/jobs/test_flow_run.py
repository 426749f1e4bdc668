"""Whether a flow run wants its jobs, by what is asked of it and of those that called it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from prefect import flow, get_client, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Paused,
    Running,
    Scheduled,
)
from starlette.requests import Request

from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.flow_run import being_canceled
from prefect_replicate.jobs.watch import _shared_look
from tests.chaos.proxy import Proxy


@flow
def _nothing() -> None: ...


@task
def _calls() -> None: ...


class Family:
    """Flow runs that call each other, on the server alone."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.client = client
        self._deployment = client.create_deployment(client.create_flow(_nothing), name="own")

    def run(self, by: FlowRun | None = None, *, deployed: bool = False) -> FlowRun:
        """One that runs, called by another one or by nobody."""
        task_run = self.client.create_task_run(_calls, by.id, "0").id if by else None
        if deployed:
            made = self.client.create_flow_run_from_deployment(
                self._deployment, parent_task_run_id=task_run
            )
        else:
            made = self.client.create_flow_run(_nothing, parent_task_run_id=task_run)
        self.to(made, Running())
        return made

    def to(self, run: FlowRun, *states: State[Any]) -> None:
        """Let it go through some states."""
        for state in states:
            self.client.set_flow_run_state(run.id, state, force=True)


@pytest.fixture
def family(prefect_server: None) -> Iterator[Family]:
    with get_client(sync_client=True) as client:
        yield Family(client)


def unwanted(run: FlowRun) -> bool:
    return engine().run(lambda: being_canceled(run.id))


@pytest.mark.parametrize("deployed", [False, True], ids=["in its process", "as a deployment"])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["itself", "its caller", "whoever called that"])
def test_a_flow_run_is_canceled_with_any_that_it_was_called_by(
    family: Family, which: int, deployed: bool
) -> None:
    first = family.run()
    second = family.run(first, deployed=deployed)
    third = family.run(second, deployed=deployed)
    assert not unwanted(third)
    runs = [third, second, first]
    states: list[State[Any]] = [Cancelling(), Cancelled()]
    for state in states:
        family.to(runs[which], state)
        assert [unwanted(run) for run in runs] == [number <= which for number in range(3)]


def test_a_flow_run_goes_on_whatever_else_becomes_of_its_caller(family: Family) -> None:
    caller = family.run()
    run = family.run(caller, deployed=True)
    states: list[State[Any]] = [Paused(), Failed(), Crashed(), Completed(), Scheduled()]
    for state in states:
        family.to(caller, state)
        assert not unwanted(run)


def test_a_flow_run_of_a_deployment_that_is_run_again_by_itself_is_wanted(family: Family) -> None:
    caller = family.run()
    run = family.run(caller, deployed=True)
    inner = family.run(run)
    family.to(caller, Cancelled())
    # Its own retries do not mean that anybody wants it.
    family.to(run, AwaitingRetry(), Running())
    assert unwanted(run)
    assert unwanted(inner)
    family.to(run, Failed())
    assert unwanted(inner)
    family.to(run, Scheduled(), Running())
    assert not unwanted(run)
    assert not unwanted(inner)
    family.to(caller, Scheduled(), Running(), Cancelling())
    assert unwanted(run)
    assert unwanted(inner)


def test_a_flow_run_in_its_callers_process_is_canceled_with_it_though_it_began_again(
    family: Family,
) -> None:
    caller = family.run()
    run = family.run(caller)
    family.to(run, Failed())
    family.to(caller, Cancelling())
    family.to(run, Scheduled(), Running())
    assert unwanted(run)


def test_a_flow_run_that_is_gone_wants_nothing_and_one_whose_caller_is_gone_goes_on(
    family: Family,
) -> None:
    caller = family.run()
    run, not_looked_at = family.run(caller), family.run(caller)
    assert not unwanted(run)
    family.client.delete_flow_run(caller.id)
    assert not unwanted(run)
    assert not unwanted(not_looked_at)
    family.client.delete_flow_run(run.id)
    assert unwanted(run)


def test_many_jobs_of_one_flow_run_look_together_whether_it_wants_them(family: Family) -> None:
    looks: list[str] = []

    def note(request: Request, _: bytes) -> None:
        if "/flow_runs/" in request.url.path:
            looks.append(request.url.path)

    async def fifty(every: float) -> set[bool]:
        return set(await asyncio.gather(*(_shared_look(run.id, every) for _ in range(50))))

    run = family.run()
    server = str(get_current_settings().api.url).removesuffix("/api")
    with (
        Proxy(server, instead=note).running() as url,
        temporary_settings({PREFECT_API_URL: f"{url}/api"}),
    ):
        assert engine().run(lambda: fifty(60)) == {False}
        family.to(run, Cancelling())
        assert engine().run(lambda: fifty(60)) == {False}
        assert len(looks) == 1
        # What was seen counts for half the time between two looks.
        assert engine().run(lambda: fifty(1e-6)) == {True}
    assert 1 < len(looks) <= 51


def test_who_called_a_flow_run_is_asked_once_and_its_state_each_time(family: Family) -> None:
    requests: list[str] = []

    def note(request: Request, _: bytes) -> None:
        if "_runs/" in request.url.path:  # a new client asks for the version too
            requests.append(request.url.path.partition("/api/")[2])

    caller = family.run()
    run = family.run(caller)
    server = str(get_current_settings().api.url).removesuffix("/api")
    with (
        Proxy(server, instead=note).running() as url,
        temporary_settings({PREFECT_API_URL: f"{url}/api"}),
    ):
        assert not unwanted(caller)
        alone = list(requests)
        assert not unwanted(run)
        assert not unwanted(run)
    look = [f"flow_runs/{run.id}", f"flow_runs/{caller.id}"]
    assert alone == look[1:]
    assert requests == [*alone, look[0], f"task_runs/{run.parent_task_run_id}", look[1], *look]
