"""Whatever stops a process that waits for a job reaches the job, in every way that it can wait.

With PREFECT_REPLICATE_FULL_SIZE=1 each script is stopped by itself too.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Crashed, Scheduled

from prefect_replicate import sweep_jobs
from tests.chaos.conftest import FULL_SIZE, World, tell_stop
from tests.chaos.running import until

T = TypeVar("T")
pytestmark = pytest.mark.timeout(400)

PROGRAM = Path(__file__).with_name("stopped.py")
# How many jobs each flow makes.
MAKES = {
    "task": 1,
    "async-tasks": 2,
    "submitted": 2,
    "mapped": 2,
    "subflow": 1,
    "batch": 3,
    "block": 1,
    "stream": 1,
    "async-submitted": 2,
    "sync-in-async": 1,
    "nested": 1,
    "no-flow": 1,
    "unwaited": 1,
}
# Those that are killed.
KILLED = ("task", "mapped", "batch", "subflow")
SERVED = ("task", "async-tasks", "submitted", "mapped", "subflow", "unwaited")
BY_THEMSELVES = ("timeout", "timeout-async", "timeout-submitted", "deadline")
UNSERVED = ("task", "async-submitted", "submitted", "subflow")
# Prefect kills a process that long after asking it to end; within it must have ended by itself.
GRACE = 30.0
RUNS = {"starting", "processing"}
# For a busy machine to start many processes.
LONG = 120.0


class Stopping:
    """One program, whose processes are stopped."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.log = folder / "log"
        self.first = world.foreign(do="sleep", text="first", number=100)
        self.environment = {
            **os.environ,
            "PREFECT_API_URL": str(get_current_settings().api.url),
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "REPLICATE_BASE_URL": world.replicate.base_url,
            "REPLICATE_API_TOKEN": world.replicate.token,
            "MODEL": world.model,
            "FOLDER": str(folder),
        }

    @contextmanager
    def running(self, *names: str) -> Iterator["subprocess.Popen[str]"]:
        """The program, which has ended afterwards."""
        with (
            self.log.open("a") as log,
            subprocess.Popen(
                [sys.executable, str(PROGRAM), *names],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as program,
        ):
            try:
                yield program
            finally:
                program.kill()
                for begun in self.folder.glob("*.pid"):
                    _kill(int(begun.read_text()))

    def pid(self, name: str) -> int:
        """The process of a flow."""
        return int((self.folder / f"{name}.pid").read_text())

    def statuses(self, name: str) -> list[str]:
        """How the jobs of a flow are."""
        return [job["status"] for job in self.world.jobs() if job["input"]["text"] == name]

    def wait_until_all_wait(self, makes: dict[str, int]) -> None:
        """Until each flow has made its jobs and recorded them, and waits.

        No job begins before, lest it end before, too: the model takes one at a time.
        """
        until(lambda: self._asked(makes) == makes, self.logged)
        self.world.api.post(f"/predictions/{self.first}/cancel").raise_for_status()

    def canceled(self, names: tuple[str, ...]) -> dict[str, float]:
        """Seconds until all jobs of each flow are canceled; what never is, is not among them."""
        begun, after = time.monotonic(), dict[str, float]()
        while len(after) < len(names) and time.monotonic() - begun < GRACE:
            now = time.monotonic() - begun
            statuses: dict[str, set[str]] = {}
            for job in self.world.jobs():
                statuses.setdefault(job["input"]["text"], set()).add(job["status"])
            for name in names:
                if statuses.get(name) == {"canceled"}:
                    after.setdefault(name, now)
            time.sleep(0.1)
        return after

    def tell(self, way: str, makes: dict[str, int], after: dict[str, float]) -> None:
        """Put what became of the jobs into the table."""
        for name, calls in makes.items():
            statuses = self.statuses(name)
            left = sum(status in RUNS for status in statuses)
            tell_stop(way, name, f"{len(statuses)} for {calls}", after.get(name), left)

    def lives(self) -> dict[str, float]:
        """Seconds from the creation of each flow's job to its end."""
        times = {
            job["input"]["text"]: [job["created_at"], job["completed_at"]]
            for job in self.world.jobs()
        }
        parsed = {name: [*map(datetime.fromisoformat, both)] for name, both in times.items()}
        return {name: (end - begin).total_seconds() for name, (begin, end) in parsed.items()}

    def runs(self) -> dict[str, FlowRun]:
        """The newest run of each flow."""
        with get_client(sync_client=True) as client:
            names = {each.id: each.name for each in client.read_flows()}
            runs = client.read_flow_runs(limit=60, sort="START_TIME_DESC")  # type: ignore[arg-type]  # its name will do
        return {names[run.flow_id]: run for run in reversed(runs)}

    def triggered(self) -> list[FlowRun]:
        """Runs of all that is served."""

        def all_served() -> list[UUID]:
            found = [each.id for each in client.read_deployments() if each.name == "served"]
            return found if len(found) == len(SERVED) else []

        with get_client(sync_client=True) as client:
            return [
                client.create_flow_run_from_deployment(each)
                for each in until(all_served, self.logged)
            ]

    def cancel(self, runs: list[FlowRun]) -> None:
        """As the UI and `prefect flow-run cancel` do."""
        with get_client(sync_client=True) as client:
            for run in runs:
                client.set_flow_run_state(run.id, Cancelling())

    def retry(self, runs: list[FlowRun]) -> None:
        """As the UI and `prefect flow-run retry` do."""
        with get_client(sync_client=True) as client:
            for run in runs:
                client.set_flow_run_state(run.id, Scheduled(), force=True)

    def ends(self, runs: list[FlowRun]) -> list[str]:
        """The ledger's rows about ended jobs."""
        with get_client(sync_client=True) as client:
            rows = [
                row.key
                for run in runs
                for row in client.filter_flow_run_input(
                    run.id, key_prefix="pr-", limit=200, exclude_keys=set()
                )
            ]
        assert rows
        return [row for row in rows if row.endswith("-end")]

    def wait_until_ended(self, runs: list[FlowRun], state: str) -> None:
        """Until all have ended so, and their tasks too; of those the server hears by events.

        A task that has seen by itself that its flow run is being canceled has failed, and that of a
        subflow ends as the subflow does.
        """
        ids = FlowRunFilter(id={"any_": [run.id for run in runs]})
        wanted = [state] * len(runs)
        # What nobody waits for was made by a task that has completed.
        ended = {"CRASHED", "COMPLETED"}
        ended |= {"FAILED", "CANCELLED"} if state == "CANCELLED" else set()
        flows, tasks = list[str](), list[str]()
        deadline = time.monotonic() + GRACE
        with get_client(sync_client=True) as client:
            while flows != wanted or not tasks or not set(tasks) <= ended:
                told = f"{flows} {tasks}\n{self.logged()}"
                assert time.monotonic() < deadline, told
                flows = [_state(run) for run in client.read_flow_runs(flow_run_filter=ids)]
                tasks = [_state(run) for run in client.read_task_runs(flow_run_filter=ids)]
                time.sleep(0.1)

    def logged(self) -> str:
        """The end of what the processes said."""
        return self.log.read_text()[-20000:]

    def _asked(self, makes: dict[str, int]) -> dict[str, int]:
        """The jobs that are waited for: somebody has read them since they were made."""
        read = {each.path.rpartition("/")[2] for each in self.world.replicate.requests("GET")}
        asked = Counter(job["input"]["text"] for job in self.world.jobs() if job["id"] in read)
        return {name: asked[name] for name in makes}


def _state(run: FlowRun | TaskRun) -> str:
    return run.state_type.value if run.state_type else ""


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.fixture
def stopping(world: World, tmp_path: Path) -> Stopping:
    """Nothing runs yet."""
    return Stopping(world, tmp_path)


def _scripts() -> list[Any]:
    names = tuple(name for name in MAKES if name != "unwaited")
    together = pytest.param(names, id="all at once")
    if not FULL_SIZE:
        return [together]
    return [together, *(pytest.param((name,), id=name) for name in names)]


@pytest.mark.parametrize("names", _scripts())
def test_ctrl_c_in_a_script_cancels_its_jobs(stopping: Stopping, names: tuple[str, ...]) -> None:
    makes = {name: MAKES[name] for name in names}
    with stopping.running(*names) as program:
        stopping.wait_until_all_wait(makes)
        for name in names:
            os.kill(stopping.pid(name), signal.SIGINT)
        after = stopping.canceled(names)
        ended = _ended(program)
    stopping.tell("Ctrl-C in a script", makes, after)
    assert after.keys() == makes.keys(), stopping.logged()
    assert {name for name, status in ended.items() if status not in {1, -signal.SIGINT}} == set()
    # Asyncio cancels a flow that calls a sync task once more, while Prefect says how it ended.
    runs = [run for name, run in stopping.runs().items() if name in {*names} - {"sync-in-async"}]
    if runs:
        stopping.wait_until_ended(runs, "CRASHED")


def test_a_cancel_in_the_ui_reaches_scripts_that_nobody_serves(stopping: Stopping) -> None:
    makes = {name: MAKES[name] for name in UNSERVED}
    with stopping.running(*UNSERVED, *BY_THEMSELVES) as program:
        stopping.wait_until_all_wait(makes)
        stopping.cancel([stopping.runs()[name] for name in UNSERVED])
        after = stopping.canceled((*UNSERVED, *BY_THEMSELVES))
        program.communicate(timeout=LONG)
    stopping.tell("UI cancel of a script", makes, after)
    stopping.tell("by itself", dict.fromkeys(BY_THEMSELVES, 1), stopping.lives())
    assert after.keys() == {*UNSERVED, *BY_THEMSELVES}, stopping.logged()


def test_a_drained_node_leaves_its_jobs_to_the_retry_and_a_cancel_in_the_ui_takes_them(
    stopping: Stopping,
) -> None:
    makes = {name: MAKES[name] for name in SERVED}
    with stopping.running() as runner:
        runs = stopping.triggered()
        stopping.wait_until_all_wait(makes)
        for name in SERVED:
            os.kill(stopping.pid(name), signal.SIGTERM)
        stopping.wait_until_ended(runs, "CRASHED")
        stopping.tell("SIGTERM of a served flow", makes, {})
        left = {name: stopping.statuses(name) for name in SERVED}
        assert {status for each in left.values() for status in each} <= RUNS, stopping.logged()
        assert stopping.ends(runs) == []
        stopping.world.replicate.clear_requests()
        stopping.retry(runs)
        stopping.wait_until_all_wait(makes)
        assert stopping.world.creates() == []
        stopping.cancel(runs)
        after = stopping.canceled(SERVED)
        stopping.tell("retry of that, UI cancel", makes, after)
        assert after.keys() == makes.keys(), stopping.logged()
        stopping.wait_until_ended(runs, "CANCELLED")
        runner.send_signal(signal.SIGINT)
        runner.communicate(timeout=LONG)


def test_what_killed_processes_have_left_is_canceled_by_one_sweep(stopping: Stopping) -> None:
    makes = {name: MAKES[name] for name in KILLED}
    with stopping.running(*KILLED):
        stopping.wait_until_all_wait(makes)
        runs = [stopping.runs()[name] for name in KILLED]
    assert all(set(stopping.statuses(name)) <= RUNS for name in KILLED)
    with get_client(sync_client=True) as client:
        for run in runs:
            client.set_flow_run_state(run.id, Crashed(), force=True)
    begun = time.monotonic()
    sweep_jobs(credentials=stopping.world.credentials, patience=0)
    took = time.monotonic() - begun
    after = dict.fromkeys(stopping.canceled(KILLED), took)
    stopping.tell("killed, one sweep", makes, after)
    assert after.keys() == makes.keys(), stopping.logged()


def _ended(program: "subprocess.Popen[str]") -> dict[str, int]:
    told, _ = program.communicate(timeout=LONG)
    return {name: int(status) for name, status in (line.split() for line in told.splitlines())}
