"""Duplicates that nobody is left to cancel: the sweep looks for them, and cancels them."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from prefect_replicate import run_model, sweep_jobs
from tests.chaos.conftest import FULL_SIZE, QUARANTINE, Again, World
from tests.chaos.running import asked, until
from tests.chaos.test_zombies import recorded, zombies

LAST = "after the last check"


def swept_to(world: World, left: Callable[[], set[str]]) -> None:
    """Sweep until only these jobs are left; some can only be told when margins are over."""

    def done() -> bool:
        sweep_jobs(credentials=world.credentials)
        return alive(world) == left()

    until(done, lambda: str(world.jobs()))


def alive(world: World) -> set[str]:
    return {job["id"] for job in world.jobs() if job["status"] != "canceled"}


def test_what_a_process_made_that_slept_and_was_killed_right_after_its_create_is_canceled(
    world: World, tmp_path: Path, unused_tcp_port: int
) -> None:
    program = zombies(world, {"prediction 0": LAST, "hooked 0": LAST}, tmp_path, unused_tcp_port)
    with (
        world.replicate.fault("cold_boot", model="local/*", seconds=15, times=None),
        program.running("stop", DYING="2") as sleeper,
    ):
        sleeper.stopped()
        assert sum(asked(world).values()) == 0
        with program.retrying(sleeper.run) as other:
            until(lambda: len(recorded(sleeper.run)) == 2, other.log)
        # Both are dead now, or about to be: nobody of them looks for anything.
        sleeper.goes_on()
        assert sleeper.ended() == -signal.SIGKILL
        assert sum(asked(world).values()) == len(alive(world)) == 4
        swept_to(world, lambda: recorded(sleeper.run))
        assert len(alive(world)) == 2
    names = ("prediction 0", "hooked 0")
    assert program.retried(sleeper.run) == {name: name for name in names}
    assert sum(asked(world).values()) == 4


@pytest.mark.parametrize("late", ["taken", "listed"] if FULL_SIZE else ["taken"])
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
        assert asked_for.id is not None
        swept_to(world, lambda: recorded(str(asked_for.id)))
        made = making.result()
    assert len(world.creates()) == 2
    assert alive(world) == {made.id}
    assert recorded(str(asked_for.id)) == {made.id}
