import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from prefect_replicate.local.engine import Event, Started, StartFailed, WorkerSpec
from prefect_replicate.local.pool import Pool


class Clerk:
    """A worker without a process."""

    def __init__(self, spec: WorkerSpec, folder: Path) -> None:
        self.spec, self.folder = spec, folder
        self.usable = False

    async def start(self) -> None:
        await asyncio.sleep(0)
        if self.spec.reference == "broken":
            raise StartFailed("broken")
        self.usable = True

    async def run(self, run_id: str, payload: dict[str, Any]) -> AsyncGenerator[Event]:  # noqa: ARG002 - a port's signature
        yield Started()

    async def cancel(self, run_id: str) -> None:
        """Nothing runs."""

    def kill(self) -> None:
        self.usable = False

    async def close(self) -> None:
        self.usable = False


class Office:
    """Remembers whom a pool has hired."""

    def __init__(self) -> None:
        self.hired: list[Clerk] = []

    def __call__(self, spec: WorkerSpec, folder: Path) -> Clerk:
        self.hired.append(Clerk(spec, folder))
        return self.hired[-1]

    @property
    def working(self) -> list[str]:
        return [clerk.spec.key for clerk in self.hired if clerk.usable]


def _spec(key: str, **changes: Any) -> WorkerSpec:
    fields: dict[str, Any] = {"reference": "p.py:P", "mode": "predict", **changes}
    return WorkerSpec(key=key, source=Path(), schema={}, **fields)


@pytest.fixture
def office() -> Office:
    return Office()


async def test_a_worker_is_used_again(tmp_path: Path, office: Office) -> None:
    pool = Pool(tmp_path / "workers", office)
    async with pool.lease(_spec("a")) as first:
        pass
    async with pool.lease(_spec("a")) as second:
        assert second is first


async def test_a_worker_takes_as_many_at_a_time_as_it_can(tmp_path: Path, office: Office) -> None:
    pool = Pool(tmp_path / "workers", office)
    spec = _spec("a", concurrency=2)
    third = asyncio.create_task(pool.warm_up(spec))
    async with pool.lease(spec) as first, pool.lease(spec) as second:
        assert first is second
    await third
    assert len(office.hired) == 1


async def test_the_longest_unused_worker_makes_room(tmp_path: Path, office: Office) -> None:
    pool = Pool(tmp_path / "workers", office, most=2)
    for key in ("a", "b", "a", "c"):
        await pool.warm_up(_spec(key))
    assert office.working == ["a", "c"]


async def test_who_finds_no_room_waits_for_it(tmp_path: Path, office: Office) -> None:
    pool = Pool(tmp_path / "workers", office, most=1)
    async with pool.lease(_spec("a")):
        waiting = asyncio.create_task(pool.warm_up(_spec("b")))
        await asyncio.sleep(0.01)
        assert office.working == ["a"]
    await waiting
    assert office.working == ["b"]


async def test_a_worker_that_is_kept_warm_makes_room_last(tmp_path: Path, office: Office) -> None:
    pool = Pool(tmp_path / "workers", office, most=2)
    pool.keep_warm(lambda: {"a"})
    for key in ("a", "b", "c"):
        await pool.warm_up(_spec(key))
    assert office.working == ["a", "c"]


async def test_only_what_is_kept_warm_survives_idleness(tmp_path: Path, office: Office) -> None:
    pool = Pool(tmp_path / "workers", office, idle=0.01)
    pool.keep_warm(lambda: {"a"})
    for key in ("a", "b"):
        await pool.warm_up(_spec(key))
    reaping = asyncio.create_task(pool.reap())
    while "b" in office.working:
        await asyncio.sleep(0.005)
    reaping.cancel()
    assert office.working == ["a"]


async def test_a_pool_that_keeps_nobody_idle_looks_now_and_then(
    tmp_path: Path, office: Office
) -> None:
    looks = 0

    def warm() -> set[str]:
        nonlocal looks
        looks += 1
        return set()

    pool = Pool(tmp_path / "workers", office, idle=0)
    pool.keep_warm(warm)
    reaping = asyncio.create_task(pool.reap())
    for _ in range(1000):  # turns of the loop, in each of which it could look
        await asyncio.sleep(0)
    reaping.cancel()
    assert looks < 100


async def test_a_worker_for_single_use_is_ended_after_it(tmp_path: Path, office: Office) -> None:
    pool = Pool(tmp_path / "workers", office)
    await pool.warm_up(_spec("a", single_use=True))
    assert office.working == []


async def test_a_dead_worker_is_replaced(tmp_path: Path, office: Office) -> None:
    pool = Pool(tmp_path / "workers", office)
    await pool.warm_up(_spec("a"))
    office.hired[0].kill()
    async with pool.lease(_spec("a")) as worker:
        assert worker is office.hired[1]


async def test_a_worker_that_does_not_start_takes_no_room(tmp_path: Path, office: Office) -> None:
    pool = Pool(tmp_path / "workers", office, most=1)
    for _ in range(2):
        with pytest.raises(StartFailed):
            await pool.warm_up(_spec("a", reference="broken"))
    await pool.warm_up(_spec("b"))
    assert office.working == ["b"]


async def test_a_closed_pool_starts_nobody(tmp_path: Path, office: Office) -> None:
    pool = Pool(tmp_path / "workers", office)
    await pool.warm_up(_spec("a"))
    await pool.close()
    with pytest.raises(StartFailed):
        await pool.warm_up(_spec("b"))
    assert office.working == []


class Clinger(Clerk):
    """A worker that cannot be ended properly, at its first time."""

    clings = True

    async def close(self) -> None:
        self.usable = False
        if self.clings:
            self.clings = False
            raise OSError("the disk is gone")


async def test_a_worker_that_cannot_be_ended_keeps_no_room_and_nobody_waiting(
    tmp_path: Path,
) -> None:
    pool = Pool(tmp_path / "workers", Clinger, most=1)
    with pytest.raises(OSError, match="the disk is gone"):
        await pool.warm_up(_spec("a", single_use=True))
    waiting = asyncio.create_task(pool.warm_up(_spec("b")))
    await asyncio.wait_for(waiting, 5)


async def test_idle_workers_are_ended_even_if_one_of_them_cannot_be(tmp_path: Path) -> None:
    hired: list[Clinger] = []

    def hire(spec: WorkerSpec, folder: Path) -> Clinger:
        hired.append(Clinger(spec, folder))
        return hired[-1]

    pool = Pool(tmp_path / "workers", hire, idle=0.01)
    await pool.warm_up(_spec("a"))
    await pool.warm_up(_spec("b"))
    reaping = asyncio.create_task(pool.reap())
    while any(clerk.usable for clerk in hired):
        assert not reaping.done()
        await asyncio.sleep(0.005)
    reaping.cancel()
