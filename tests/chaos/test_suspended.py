"""A flow run that is suspended has no process; its job goes on, and is found when it is resumed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.states import Cancelling

from prefect_replicate import sweep_jobs
from tests.chaos.conftest import World, tell_stop
from tests.chaos.running import until

T = TypeVar("T")

PROGRAM = Path(__file__).with_name("sleeping.py")


class Served:
    """The flows of the program, served."""

    def __init__(self, world: World, log: Path) -> None:
        self.world, self.log = world, log

    def logged(self) -> str:
        return self.log.read_text()

    def begin(self, name: str, text: str, **more: int) -> UUID:
        """Ask for a run, once the flow is served."""

        def asked() -> UUID | None:
            with suppress(ObjectNotFound), get_client(sync_client=True) as client:
                deployment = client.read_deployment_by_name(f"{name}/{name}")
                parameters = {"text": text, **more}
                run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
                return run.id
            return None

        return until(asked, self.logged)

    def state(self, run: UUID) -> State[Any]:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run).state
        assert state
        return state

    def wait_for(self, run: UUID, name: str) -> None:
        until(lambda: self.state(run).name == name, self.logged)


@pytest.fixture
def served(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("REPLICATE_API_TOKEN", world.replicate.token)
    monkeypatch.setenv("REPLICATE_BASE_URL", world.replicate.base_url)
    environment = {
        **os.environ,
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "MODEL": world.model,
    }
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen([sys.executable, PROGRAM], env=environment, stderr=log) as program,
    ):
        yield Served(world, tmp_path / "log")
        program.kill()


def test_a_suspended_flow_run_finds_its_job_or_loses_it_when_it_is_canceled(served: Served) -> None:
    world = served.world
    naps, fails = served.begin("naps", "naps"), served.begin("fails", "fails")
    for run in (naps, fails):
        served.wait_for(run, "Suspended")
    # The model takes one at a time.
    canceled = served.begin("naps", "canceled", seconds=90)
    served.wait_for(canceled, "Suspended")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(canceled, Cancelling())
        client.resume_flow_run(fails)
    # Prefect runs no hook for a suspended run that is canceled: nobody is there but the sweep.
    begun = time.monotonic()
    swept = {one.flow_run_id: one for one in sweep_jobs()}
    tell_stop("suspended, one sweep", "naps", "1 for 1", time.monotonic() - begun, 0)
    (job,) = [job for job in world.jobs() if job["input"]["text"] == "canceled"]
    assert job["status"] == "canceled"
    assert swept[str(canceled)].canceled == [job["id"]]
    while served.state(naps).name == "Suspended":
        sweep_jobs()
        time.sleep(0.2)
    for run in (naps, fails):
        served.wait_for(run, "Completed")
    statuses = {job["input"]["text"]: job["status"] for job in world.jobs()}
    assert statuses == {"naps": "succeeded", "fails": "failed", "canceled": "canceled"}
    assert len(world.creates()) == 3
