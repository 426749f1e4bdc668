"""Calls are cut at every point, and asked again in every way: one create and one job for each.

All calls of a way share their processes: each waits at its own point until all of them do, and then
the process is killed. With PREFECT_REPLICATE_FULL_SIZE=1 each one has processes of its own too.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from prefect_replicate import LocalReplicate, ReplicateCredentials, release_deployment
from tests.chaos.conftest import FULL_SIZE, World, counts
from tests.chaos.running import POSTED, Program, asked, made
from tests.conftest import TINY_PREDICT, TINY_TRAIN

KINDS = ("prediction", "training", "deployment", "batch")
SAVING = "during the download"
POINTS = (
    "before the claim",
    "after the claim",
    POSTED,
    "before the record",
    "after the record",
    "while it waits",
    "before the end is written",
    SAVING,
)
# A second machine is a retry with less to go by, and a flow that is run again runs its tasks again.
WAYS = ("second machine", "flow", *(["retry", "task"] if FULL_SIZE else []))
CALLS = {f"{kind} {number}": point for kind in KINDS for number, point in enumerate(POINTS)}
BATCH = 3
CHOSEN = [CALLS]
if FULL_SIZE:
    CHOSEN += [{name: point} for name, point in CALLS.items()]


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
    cut_and_asked_again(world, bases, tmp_path, way, calls)


def cut_and_asked_again(
    world: World,
    bases: list[str],
    tmp_path: Path,
    way: str,
    calls: dict[str, str],
    where: str = "",
) -> None:
    """Cut calls, ask them again in some way, and see what there is of each."""
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
        counts[f"{where} {way}".strip(), name.partition(" ")[0], point] = told
    expected = dict.fromkeys([item for name in calls for item in _items(name)], 1)
    assert asked_for == expected
    assert jobs == expected
    assert {job["status"] for job in world.jobs() + world.jobs("trainings")} == {"succeeded"}
    for name in calls:
        assert _undisturbed(world, name, outputs[name])
    jobs_saved = [_saved_whole(folder) for folder in (tmp_path / "saved").glob("*")]
    saved = [name for name, point in calls.items() if point == SAVING]
    assert sorted(jobs_saved) == sorted(
        _text_of(name, item) for name in saved for item in _items(name)
    )


def _run(program: Program, world: World, way: str) -> dict[str, Any]:
    if way in {"task", "flow"}:
        with faults(world, program.calls, {"kind": "drop_after"}):
            return program.ended(way)
    with faults(world, program.calls, {"kind": "slow", "seconds": 30}):
        run = program.killed()
    if way == "retry":
        return program.retried(run)
    (home := program.folder / "home").mkdir()
    return program.retried(run, PREFECT_HOME=str(home))


def _items(name: str) -> list[str]:
    batch = name.startswith("batch")
    return [f"{name} {number}" for number in range(BATCH)] if batch else [name]


def _undisturbed(world: World, name: str, output: Any) -> bool:
    if name.startswith("training"):
        weights = world.api.get(output["weights"]).raise_for_status().text
        return weights == f"data of {name}"
    if name.startswith("batch"):
        return bool(output == _items(name))
    return bool(output == name)


def _text_of(name: str, item: str) -> str:
    return f"data of {name}" if name.startswith("training") else item


def _saved_whole(folder: Path) -> str:
    """What is kept in a folder, beside a description; all of it is as its manifest says."""
    contents: dict[str, bytes] = {}
    for file in json.loads((folder / "manifest.json").read_text())["files"]:
        content = contents[file["name"]] = (folder / file["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"])
    contents.pop("output.json", None)
    (text,) = contents.values()
    return text.decode()


def test_every_kind_is_cut_at_every_point() -> None:
    cells = {(name.partition(" ")[0], point) for name, point in CALLS.items()}
    assert cells == set(product(KINDS, POINTS))
