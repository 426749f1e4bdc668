"""Batches share a log: each item keeps its job, whatever becomes of others and of the process."""

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Scheduled

from prefect_replicate import BatchError, arun_batch, run_batch, run_model
from prefect_replicate.api.client import Client, api_url
from prefect_replicate.api.resources import Prediction
from prefect_replicate.jobs import ledger
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.identity import fingerprint, key_of
from prefect_replicate.jobs.ledger import Named
from prefect_replicate.jobs.packs import Pack
from prefect_replicate.jobs.recording import Recorder
from prefect_replicate.jobs.rows import Rows, RowStore
from prefect_replicate.jobs.settled import Ticket
from tests.chaos.conftest import Again, World
from tests.chaos.many import many

T = TypeVar("T")
ITEMS = 40


def do(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Where rows are read and written: on the engine's loop."""
    return engine().run(work)


def inputs(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text} for text in texts]


def test_when_some_inputs_change_the_others_keep_their_jobs(world: World) -> None:
    given = iter([inputs("a", "same", "b", "same"), inputs("new", "same", "c", "a", "same")])
    asked = Again(lambda: run_batch(world.model, next(given), credentials=world.credentials))
    first, second = asked.first(), asked.again()
    assert [job.output for job in second] == ["new", "same", "c", "a", "same"]
    assert second[3].id == first[0].id
    assert {second[1].id, second[4].id} == {first[1].id, first[3].id}
    assert Counter(job["input"]["text"] for job in world.jobs()) == Counter(
        {"a": 1, "b": 1, "c": 1, "new": 1, "same": 2}
    )


def test_an_item_and_a_call_that_ask_the_same_have_a_job_each(world: World) -> None:
    def ask() -> list[str]:
        batch = run_batch(world.model, inputs("x", "x"), credentials=world.credentials)
        return [one.id for one in batch] + [
            run_model(world.model, {"text": "x"}, credentials=world.credentials).id
        ]

    asked = Again(ask)
    first, second = asked.first(), asked.again()
    assert len(set(first)) == len(world.jobs()) == 3
    assert set(first[:2]) == set(second[:2])
    assert first[2] == second[2]


async def test_batches_at_once_keep_their_jobs_in_whatever_order_they_come_again(
    world: World,
) -> None:
    seen: list[list[str]] = []

    @flow(retries=1, persist_result=False)
    async def asks() -> None:
        again = flow_run.get_run_count() > 1
        batches = [inputs("a", "both"), inputs("b", "both", "both")]
        made = await asyncio.gather(
            *(
                arun_batch(world.model, batch, credentials=world.credentials)
                for batch in (reversed(batches) if again else batches)
            )
        )
        seen.append(sorted(one.id for batch in made for one in batch))
        if not again:
            raise RuntimeError("after the jobs")

    await asks()
    assert seen[0] == seen[1]
    assert len(world.creates()) == 5


def test_a_batch_of_many_writes_few_rows(world: World) -> None:
    given = inputs(*map(str, range(100)))
    asked = Again(lambda: run_batch(world.model, given, credentials=world.credentials))
    asked.first()
    assert len(asked.rows()) < 100
    assert not any("-g01-" in name for name in asked.rows())


def test_a_batch_that_is_killed_anywhere_has_one_job_for_each_input(
    world: World, tmp_path: Path
) -> None:
    texts = [str(number % 30) for number in range(ITEMS)]  # some are equal
    asked = {
        "model": world.model,
        "texts": texts,
        "base_url": world.replicate.base_url,
        "token": world.replicate.token,
    }
    environment = {
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "ASKED": json.dumps(asked),
    }
    moment = random.randint(1, ITEMS)  # noqa: S311 - guards nothing
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.many"],
            env={**os.environ, **environment},
            cwd=Path(__file__).parents[2],
            stdout=log,
            stderr=log,
        )
    until = time.monotonic() + 90
    while len(world.creates()) < moment and running.poll() is None:
        assert time.monotonic() < until, (tmp_path / "log").read_text()
    running.kill()
    running.wait()
    assert world.creates(), (tmp_path / "log").read_text()
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(limit=1, sort="EXPECTED_START_TIME_DESC")  # type: ignore[arg-type]  # its name will do
        client.set_flow_run_state(run.id, Scheduled(), force=True)
        run = client.read_flow_run(run.id)
    outputs = run_flow(many, flow_run=run, parameters=asked)
    told = f"killed after {moment} creates"
    assert outputs == texts, told
    expected = Counter(texts)
    # One that was cut before its body has made nothing.
    bodies = [each.body for each in world.creates() if each.body]
    assert Counter(json.loads(body)["input"]["text"] for body in bodies) == expected, told
    assert Counter(job["input"]["text"] for job in world.jobs()) == expected, told


def test_what_another_process_cancels_before_its_turn_is_not_sent(world: World) -> None:
    given: list[dict[str, Any]] = [{"do": "sleep", "number": 4}, {"text": "canceled"}]
    asked = Again(lambda: run_batch(world.model, given, at_once=1, credentials=world.credentials))
    errors: list[BatchError] = []

    def go() -> None:
        with pytest.raises(BatchError) as caught:
            asked.first()
        errors.append(caught.value)

    thread = threading.Thread(target=go)
    thread.start()
    while not world.jobs():
        assert thread.is_alive()
        time.sleep(0.02)
    assert asked.id
    rows, api = Rows(asked.id), api_url(world.replicate.base_url)
    print_ = fingerprint(api, f"batch of {world.model}", given[1], lambda _: None)
    with get_client(sync_client=True) as client:
        attempt = str(client.read_flow_run(asked.id).state_id).replace("-", "")
    stone = Named(id=None, how="canceled elsewhere", canceled=(attempt,)).model_dump_json()
    row = ledger.name(key_of(asked.id, print_, 0), 1, "job")

    async def cancel() -> bool:
        (index,) = await rows.read("pr-batch-")
        return await Pack(rows, index.removeprefix("pr-batch-")).write(row, stone)

    assert do(cancel)
    thread.join()
    assert set(errors[0].errors) == {1}
    assert "canceled elsewhere" in str(errors[0].errors[1])
    assert len(world.creates()) == 1


def test_a_job_that_one_made_and_another_finds_is_had_by_one_of_them(world: World) -> None:
    asked = Again(lambda: str(flow_run.id))
    asked.first()
    assert asked.id
    rows = Rows(asked.id)

    async def both(number: int, stores: tuple[RowStore, RowStore]) -> list[bool | None]:
        """What the maker and the finder of a job are told when they record it."""
        job, client = (
            Prediction(id=f"job{number}", status="starting"),
            Client(world.credentials.access),
        )
        work = []
        for who, (store, how) in enumerate(zip(stores, ("created", "adopted"), strict=True)):
            ticket = Ticket(store, f"{'ab'[who]}{number:025}", "f", "attempt")
            named = Named(id=job.id, claim=1, how=how, attempt="attempt")
            work.append(Recorder(client, ticket, 5.0).record(1, job, named, proven=False))
        match number % 3:
            case 0:
                return [await work[0], await work[1]]
            case 1:
                return [await work[1], await work[0]][::-1]
        return list(await asyncio.gather(*work))

    async def go() -> list[list[bool | None]]:
        here, there = Pack(rows, "p" * 26), Pack(rows, "q" * 26)
        for pack in (here, there):
            await pack.write("pr-begun", "1")
        homes: list[tuple[RowStore, RowStore]]
        homes = [(here, there), (here, here), (here, rows), (rows, here), (rows, rows)]
        return [await both(number, homes[number // 3 % 5]) for number in range(15)]

    told = do(go)
    assert told[0::3] == [[True, None]] * 5
    assert told[1::3] == [[None, True]] * 5
    assert all(each in ([True, None], [None, True]) for each in told[2::3]), told
