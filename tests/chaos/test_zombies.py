"""Processes that are stopped in mid-call and go on when others have long taken over; and twins."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from tests.chaos.conftest import World, rows_of
from tests.chaos.running import Program, asked, made, until

ZOMBIES = {
    "prediction 0": "after the last check",
    "deployment 0": "after the last check",
    "batch 0": "after the last check",
    "training 0": "after the last check",
    "hooked 0": "after the last check",
    "prediction 1": "while it waits",
}
TWICE = ("prediction 0", "deployment 0", "training 0", "hooked 0")
BATCH = [f"batch 0 {number}" for number in range(3)]
# Short: whoever comes later finds that no create is under way any more.
SHORT = {
    "PREFECT_INTEGRATIONS_REPLICATE_LEDGER_SEND": "2",
    "PREFECT_INTEGRATIONS_REPLICATE_LEDGER_ANSWER": "3",
    "PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_POLL": "0.3",
}


def zombies(
    world: World, calls: dict[str, str], folder: Path, port: int, **environment: str
) -> Program:
    for name in calls:
        (folder / f"{name}.base").write_text(world.model)
        (folder / f"{name}.txt").write_text(f"data of {name}")
    hook = {"HOOK": f"http://127.0.0.1:{port}"}
    return Program(world, calls, folder, **SHORT | hook | environment)


def statuses(world: World) -> dict[str, Counter[str]]:
    """How the jobs of each call ended, or stand; trainings are all of one call here."""
    found: dict[str, Counter[str]] = {}
    for job in world.jobs():
        found.setdefault(job["input"]["text"], Counter())[job["status"]] += 1
    for job in world.jobs("trainings"):
        found.setdefault("training 0", Counter())[job["status"]] += 1
    return found


def test_a_process_that_slept_before_its_create_cancels_its_own_job_and_one_that_waited_goes_on(
    world: World, tmp_path: Path, unused_tcp_port: int
) -> None:
    program = zombies(world, ZOMBIES, tmp_path, unused_tcp_port)
    # All jobs live until the sleeper has had time to cancel its own.
    with (
        world.replicate.fault("cold_boot", model="local/*", seconds=10, times=None),
        program.running("stop") as sleeper,
    ):
        sleeper.stopped()
        wanted = {"prediction 0", "deployment 0", "training tiny", "hooked 0", *BATCH}
        with program.retrying(sleeper.run) as other:
            until(lambda: wanted <= set(asked(world)), other.log)
            sleeper.goes_on()
            outputs = other.outputs()
        sleeper.ended()
    assert outputs["prediction 0"] == "prediction 0"
    assert outputs["batch 0"] == BATCH
    # Should it have been the first to record its job after all, the other cancels its own.
    told, found = sleeper.log() + other.log(), statuses(world)
    assert {name: found[name] for name in TWICE} == {
        name: {"succeeded": 1, "canceled": 1} for name in TWICE
    }
    assert found["prediction 1"] == Counter(succeeded=1)
    # One item of the batch was stopped for certain, and others may have been on their way.
    assert all(found[name]["succeeded"] == 1 for name in BATCH)
    assert any(found[name] == {"succeeded": 1, "canceled": 1} for name in BATCH)
    assert all(found[name].total() <= 2 for name in BATCH)
    for job in world.jobs() + world.jobs("trainings"):
        canceled = job["status"] == "canceled"
        assert (f"Job {job['id']} is a second one of this call" in told) == canceled
        assert (f"{job['id']} was canceled; it is charged for the time" in told) == canceled


def test_two_machines_that_run_one_flow_run_at_the_same_moment_create_each_job_once(
    world: World, tmp_path: Path, unused_tcp_port: int
) -> None:
    # Both have read that nothing is claimed. A training is left out: it has nothing by which the
    # one who comes second could know it before all margins are over.
    kinds = ("prediction 0", "deployment 0", "batch 0", "hooked 0")
    calls = dict.fromkeys(kinds, "before the claim")
    # Nobody's claim may grow old while the other process begins.
    margins = {"PREFECT_INTEGRATIONS_REPLICATE_LEDGER_SEND": "90"}
    program = zombies(world, calls, tmp_path, unused_tcp_port, **margins)
    (home := tmp_path / "home").mkdir()
    with program.running("stop") as one:
        one.stopped()
        with program.running("stop", RUN=one.run, PREFECT_HOME=str(home)) as other:
            other.stopped()
            one.goes_on()
            other.goes_on()
            outputs = one.outputs(), other.outputs()
    assert outputs[0] == outputs[1]
    jobs = Counter([*BATCH, "prediction 0", "deployment 0", "hooked 0"])
    assert asked(world) == jobs
    assert made(world) == jobs


def test_two_runs_killed_in_equal_creates_get_their_own_jobs_again_and_none_of_a_strangers(
    world: World, tmp_path: Path, unused_tcp_port: int
) -> None:
    # All creates are still without an answer when the processes are killed.
    margins = {"PREFECT_INTEGRATIONS_REPLICATE_LEDGER_ANSWER": "60"}
    programs = []
    for kind in ("equal", "hooked equal"):
        calls = dict.fromkeys([f"{kind} {number}" for number in range(3)], "at once")
        programs.append(zombies(world, calls, tmp_path, unused_tcp_port, **margins))
    creating = {"method": "POST", "path": "/predictions", "seconds": 90, "times": None}
    with (
        world.replicate.fault("slow", **creating),
        programs[0].running("meet") as one,
        programs[1].running("meet") as other,
    ):
        for each in (one, other):
            each.stopped()
            each.goes_on()
        until(lambda: asked(world)["equal"] == 6, lambda: one.log() + other.log())
    stranger = world.foreign(text="equal")
    with ThreadPoolExecutor() as pool:
        retried = [
            pool.submit(program.retried, killed.run)
            for program, killed in zip(programs, (one, other), strict=True)
        ]
        assert [set(each.result().values()) for each in retried] == [{"equal"}, {"equal"}]
    assert asked(world)["equal"] == 7
    own = [recorded(killed.run) for killed in (one, other)]
    assert [len(ids) for ids in own] == [3, 3]
    assert own[0] | own[1] | {stranger} == {job["id"] for job in world.jobs()}
    assert len(world.jobs()) == 7


def recorded(run: str) -> set[str]:
    """The jobs that count for a flow run."""
    rows = rows_of(UUID(run))
    return {json.loads(value)["id"] for name, value in rows.items() if name.endswith("-job")}
