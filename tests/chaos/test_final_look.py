"""Duplicates that nobody is left to cancel: the sweep looks for them, and cancels them."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from prefect_replicate import run_model
from tests.chaos.conftest import QUARANTINE, Again, World, rows_of
from tests.chaos.running import asked, until
from tests.chaos.test_zombies import recorded, zombies

LAST = "after the last check"


def sweep(world: World) -> None:
    """The one place that says how a sweep is asked for."""
    from prefect_replicate import sweep_jobs  # noqa: PLC0415 - comes later

    sweep_jobs(credentials=world.credentials)


def alive(world: World) -> set[str]:
    return {job["id"] for job in world.jobs() if job["status"] != "canceled"}


def test_what_a_process_made_that_slept_and_was_killed_right_after_its_create_is_canceled(
    world: World, tmp_path: Path, unused_tcp_port: int
) -> None:
    program = zombies(world, {"prediction 0": LAST, "hooked 0": LAST}, tmp_path, unused_tcp_port)
    with (
        world.replicate.fault("cold_boot", model="local/*", seconds=20, times=None),
        program.running("stop", DYING="2") as sleeper,
    ):
        sleeper.stopped()
        assert sum(asked(world).values()) == 0
        with program.retrying(sleeper.run) as other:
            until(lambda: sum(asked(world).values()) == 2, other.log)
            sleeper.goes_on()
            assert sleeper.ended() == -9
            assert sum(asked(world).values()) == len(alive(world)) == 4
            sweep(world)
            assert alive(world) == recorded(sleeper.run)
            assert len(alive(world)) == 2
            assert other.outputs() == {name: name for name in ("prediction 0", "hooked 0")}
    sweep(world)
    assert alive(world) == recorded(sleeper.run)


@pytest.mark.parametrize("late", ["taken", "listed"])
def test_what_replicate_takes_or_lists_later_than_every_margin_is_canceled(
    world: World, late: str
) -> None:
    margin = QUARANTINE + 1
    lost: dict[str, Any] = {"kind": "drop_after"}
    if late == "taken":
        lost = {"kind": "drop_and_do", "seconds": margin}
    else:
        world.replicate.behave(list_lag=margin)
    asked_for = Again(
        lambda: run_model(world.model, {"text": "late"}, credentials=world.credentials)
    )
    with (
        world.replicate.fault(**lost, method="POST", path="/predictions"),
        world.replicate.fault("cold_boot", model="local/*", seconds=12, times=None),
        ThreadPoolExecutor() as pool,
    ):
        making = pool.submit(copy_context().run, asked_for.first)
        until(lambda: len(world.jobs()) == 2, lambda: str(world.jobs()))
        sweep(world)
        made = making.result()
    assert len(world.creates()) == 2
    assert alive(world) == {made.id}
    assert asked_for.id is not None
    named = [value for name, value in rows_of(asked_for.id).items() if name.endswith("-job")]
    assert [json.loads(value)["id"] for value in named] == [made.id]
