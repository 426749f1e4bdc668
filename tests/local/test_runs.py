import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect_replicate.local.conditions import Conditions
from prefect_replicate.local.engine import Ended, Event, Started, WorkerSpec
from prefect_replicate.local.files import FileStore
from prefect_replicate.local.pool import Pool
from prefect_replicate.local.runs import Live, Runs, new_run
from prefect_replicate.local.state import State

WEIGHTS = {"title": "Output", "type": "string", "format": "uri"}
SCHEMA = {"components": {"schemas": {"Input": {"properties": {}}, "Output": WEIGHTS}}}


class Trainer:
    """A worker without a process, whose training succeeds at once."""

    usable = True

    def __init__(self, *_: Any) -> None:
        """Nothing to keep."""

    async def start(self) -> None:
        """Always ready."""

    async def run(self, run_id: str, payload: dict[str, Any]) -> AsyncGenerator[Event]:  # noqa: ARG002 - a port's signature
        yield Started()
        yield Ended("succeeded", "data:,weights", None, "", {})

    async def cancel(self, run_id: str) -> None:
        """Nothing to stop."""

    def kill(self) -> None:
        """Nothing to end."""

    async def close(self) -> None:
        """Nothing to remove."""


async def test_a_training_that_is_canceled_after_the_model_ended_publishes_and_keeps_nothing(
    tmp_path: Path,
) -> None:
    state, files = State(tmp_path / "state.db"), FileStore(tmp_path / "files")
    runs = Runs(state, Pool(tmp_path / "workers", Trainer), files, Conditions())
    hashing, hashed, published = asyncio.Event(), asyncio.Event(), []

    async def finish(output: Any) -> Callable[[], Any]:
        hashing.set()
        await hashed.wait()
        return lambda: published.append(output)

    run = new_run(datetime.now(UTC), kind="training", model="acme/model", version="v", input={})
    spec = WorkerSpec("key", tmp_path, SCHEMA, "train.py:train", "train")
    runs.start(live := Live(run, spec, {}, finish))
    await hashing.wait()
    assert len(list((tmp_path / "files").iterdir())) == 1
    assert runs.cancel(run).status == "canceled"
    hashed.set()
    assert live.task
    await live.task
    assert published == []
    assert list((tmp_path / "files").iterdir()) == []
    assert runs.get(run.id) == run
    assert run.status == "canceled"
    await runs.close()
    state.close()
