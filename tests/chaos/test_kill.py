"""Calls are cut at every point, and asked again in every way: one create and one job for each.

All calls of a way share their processes: each waits at its own point until all of them do, and then
the process is killed. With PREFECT_REPLICATE_FULL_SIZE=1 each one has processes of its own too.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from prefect.states import Crashed

from prefect_replicate import LocalReplicate, ReplicateCredentials, release_deployment
from tests.chaos.conftest import World, counts
from tests.conftest import TINY_PREDICT, TINY_TRAIN

PROGRAM = Path(__file__).with_name("program.py")
KINDS = ("prediction", "training", "deployment", "batch")
POSTED = "during the create"
POINTS = (
    "before the claim",
    "after the claim",
    POSTED,
    "before the record",
    "after the record",
    "while it waits",
    "before the end is written",
)
WAYS = ("retry", "second machine", "task", "flow")
CALLS = {f"{kind} {number}": point for kind in KINDS for number, point in enumerate(POINTS)}
BATCH = 3
CHOSEN = [CALLS]
if os.environ.get("PREFECT_REPLICATE_FULL_SIZE"):
    CHOSEN += [{name: point} for name, point in CALLS.items()]
# Long enough for thirty calls at once on a slow machine.
MARGINS = {"SEND": "3", "ANSWER": "7"}


class Program:
    """Runs the program, and lets it be killed."""

    def __init__(self, world: World, calls: dict[str, str], folder: Path) -> None:
        self.world, self.calls, self.folder = world, calls, folder
        own = "PREFECT_INTEGRATIONS_REPLICATE_LEDGER_"
        self.environment = {
            **os.environ,
            **{f"{own}{name}": value for name, value in MARGINS.items()},
            "PREFECT_API_URL": str(get_current_settings().api.url),
            "REPLICATE_BASE_URL": world.replicate.base_url,
            "REPLICATE_API_TOKEN": world.replicate.token,
            "MODEL": world.model,
            "CALLS": json.dumps(calls),
            "FOLDER": str(folder),
        }

    def killed(self) -> None:
        """Run it until every call is at its point, and kill it there."""
        running = self._start("hang")
        try:
            assert running.stdout
            if any(point != POSTED for point in self.calls.values()):
                line = next((line for line in running.stdout if line.startswith("AT ")), "")
                assert line, self._log()
            self._wait_for_posts(running)
        finally:
            running.send_signal(signal.SIGKILL)
            running.communicate()

    def ended(self, cut: str) -> dict[str, Any]:
        """Run it to its end; the outputs."""
        return self._outputs(self._start(cut))

    def retried(self, **more: str) -> dict[str, Any]:
        """Run it again, as a person does who sees that it has crashed; the outputs."""
        with get_client(sync_client=True) as client:
            (run,) = client.read_flow_runs(limit=1, sort="EXPECTED_START_TIME_DESC")  # type: ignore[arg-type]  # its name will do
            client.set_flow_run_state(run.id, Crashed(), force=True)
        entrypoint = ["--entrypoint", f"{PROGRAM}:chaotic"]
        command = ["-m", "prefect", "flow-run", "retry", str(run.id), *entrypoint]
        return self._outputs(self._start("", command, **more))

    def _start(
        self, cut: str, command: list[str] | None = None, **more: str
    ) -> "subprocess.Popen[str]":
        with (self.folder / "log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, *(command or [str(PROGRAM)])],
                env={**self.environment, "CUT": cut, **more},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _outputs(self, running: "subprocess.Popen[str]") -> dict[str, Any]:
        told, _ = running.communicate(timeout=150)
        for line in told.splitlines():
            if line.startswith("OUTPUT "):
                return dict(json.loads(line.removeprefix("OUTPUT ")))
        raise AssertionError(told + self._log())

    def _wait_for_posts(self, running: "subprocess.Popen[str]") -> None:
        # Of a batch only the first create is held back; it is not known which item's.
        meant = {name for name, point in self.calls.items() if point == POSTED}
        until = time.monotonic() + 30
        while not meant <= {name for each in asked(self.world) for name in _calls_of(each)}:
            assert time.monotonic() < until, self._log()
            assert running.poll() is None, self._log()
            time.sleep(0.05)

    def _log(self) -> str:
        return (self.folder / "log").read_text()


def asked(world: World) -> Counter[str]:
    """How often each job was asked for, by the name of its call, and of its item in a batch."""
    names: Counter[str] = Counter()
    for each in world.creates():
        if each.path.endswith("/trainings"):
            names[f"training {each.path.split('/')[-4].removeprefix('base-')}"] += 1
        else:
            names[json.loads(each.body)["input"]["text"]] += 1
    return names


def made(world: World) -> Counter[str]:
    """The jobs that there are, likewise."""
    names = Counter(job["input"]["text"] for job in world.jobs())
    names.update(f"training {job['model'].rpartition('-')[2]}" for job in world.jobs("trainings"))
    return names


@contextmanager
def faults(world: World, calls: dict[str, str], fault: dict[str, Any]) -> Iterator[None]:
    """What happens to the creates that are cut while they are under way."""
    paths = {
        "prediction": "/models/local/posted-prediction/predictions",
        "batch": "/models/local/posted-batch/predictions",
        "deployment": "/deployments/local/posted/predictions",
        "training": f"/models/local/base-{POINTS.index(POSTED)}/*/trainings",
    }
    with ExitStack() as stack:
        for name, point in calls.items():
            if point == POSTED:
                path = paths[name.partition(" ")[0]]
                stack.enter_context(world.replicate.fault(method="POST", path=path, **fault))
        yield


@pytest.fixture(scope="module")
def bases(
    replicate: LocalReplicate,
    credentials: ReplicateCredentials,
    tiny_model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[str]:
    """Models to train from, one for each point, and those whose creates are held back."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "cog.yaml").write_text(
        'build: {python_version: "3.11"}\npredict: predict.py:Predictor\ntrain: train.py:train\n'
    )
    (folder / "predict.py").write_text(TINY_PREDICT)
    (folder / "train.py").write_text(TINY_TRAIN)
    for kind in ("prediction", "batch"):
        replicate.push(folder, f"local/posted-{kind}", official=True)
    release_deployment("local/posted", tiny_model, "cpu", credentials=credentials)
    return [replicate.push(folder, f"local/base-{number}") for number in range(len(POINTS))]


@pytest.mark.parametrize(
    "calls", CHOSEN, ids=lambda calls: "all at once" if len(calls) > 1 else next(iter(calls))
)
@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_is_cut_anywhere_has_one_job_and_its_output(
    world: World, bases: list[str], tmp_path: Path, way: str, calls: dict[str, str]
) -> None:
    for name in calls:
        kind, _, number = name.partition(" ")
        if kind == "training":
            (tmp_path / f"{name}.base").write_text(bases[int(number)])
            (tmp_path / f"{name}.txt").write_text(f"data of {name}")
    program = Program(world, calls, tmp_path)
    outputs = _run(program, world, way)
    asked_for, jobs = asked(world), made(world)
    for name, point in calls.items():
        items = _items(name)
        told = f"{max(asked_for[item] for item in items)} / {max(jobs[item] for item in items)}"
        counts[way, name.partition(" ")[0], point] = told
    expected = dict.fromkeys([item for name in calls for item in _items(name)], 1)
    assert asked_for == expected
    assert jobs == expected
    assert {job["status"] for job in world.jobs() + world.jobs("trainings")} == {"succeeded"}
    for name in calls:
        assert _undisturbed(world, name, outputs[name])


def _run(program: Program, world: World, way: str) -> dict[str, Any]:
    if way in {"task", "flow"}:
        with faults(world, program.calls, {"kind": "drop_after"}):
            return program.ended(way)
    with faults(world, program.calls, {"kind": "slow", "seconds": 30}):
        program.killed()
    if way == "retry":
        return program.retried()
    (home := program.folder / "home").mkdir()
    return program.retried(PREFECT_HOME=str(home))


def _items(name: str) -> list[str]:
    batch = name.startswith("batch")
    return [f"{name} {number}" for number in range(BATCH)] if batch else [name]


def _calls_of(item: str) -> set[str]:
    return {item, item.rpartition(" ")[0]}


def _undisturbed(world: World, name: str, output: Any) -> bool:
    if name.startswith("training"):
        weights = world.api.get(output["weights"]).raise_for_status().text
        return weights == f"data of {name}"
    if name.startswith("batch"):
        return bool(output == _items(name))
    return bool(output == name)


def test_every_kind_is_cut_at_every_point() -> None:
    cells = {(name.partition(" ")[0], point) for name, point in CALLS.items()}
    assert cells == set(product(KINDS, POINTS))
