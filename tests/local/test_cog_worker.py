import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from prefect_replicate.local.cog_worker import CogletWorker, _ports, _take_port, server_sent
from prefect_replicate.local.engine import OutputFile, Produced, StartFailed, WorkerSpec
from prefect_replicate.local.openapi import worker_schema
from prefect_replicate.local.schema import inspect_folder
from tests.local.conftest import ModelFolder


async def _events(chunks: list[bytes]) -> list[tuple[str, dict[str, Any]]]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [event async for event in server_sent(stream())]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield session


@pytest.mark.parametrize(
    "chunks",
    [
        [b'event: a\ndata: {"n":1}\n\n: hi\n\nevent: b\ndata: {}\n\n'],
        [b"event: a\nda", b'ta: {"n":1}\n', b"\n: hi\n\nevent: b\ndata: {}\n\n"],
        [b'event: a\ndata: {"n":' + b" " * (1 << 20) + b"1}\n\nevent: b\ndata: {}\n\n"],
        [bytes([byte]) for byte in b'event: a\ndata: {"n":1}\n\nevent: b\ndata: {}\n\n'],
        [b'event: a\ndata: {"n":1}\n\nevent: b\ndata: {}\n\nevent: cut\ndata: {'],
    ],
    ids=["at once", "in pieces", "a big one", "byte by byte", "cut off"],
)
async def test_events_are_read_however_they_are_cut(chunks: list[bytes]) -> None:
    assert await _events(chunks) == [("a", {"n": 1}), ("b", {})]


async def test_a_worker_that_is_not_ready_in_time_is_given_up_and_ended(
    tmp_path: Path, model_folder: ModelFolder, session: aiohttp.ClientSession
) -> None:
    source = """
import time
from cog import BasePredictor
class Predictor(BasePredictor):
    def setup(self):
        time.sleep(600)
    def predict(self) -> str:
        return ""
"""
    spec = WorkerSpec("slow", model_folder(source), {}, "predict.py:Predictor", "predict")
    worker = CogletWorker(spec, tmp_path / "worker", session, start_timeout=0.5)
    (tmp_path / "worker").mkdir()
    with pytest.raises(StartFailed, match=r"E6716: the model was not ready after 0\.5 s"):
        await worker.start()
    await asyncio.wait_for(worker.close(), 10)
    assert not worker.usable
    assert not (tmp_path / "worker").exists()


async def test_a_setup_that_fails_over_a_port_is_not_tried_again_and_leaves_no_process(
    tmp_path: Path, model_folder: ModelFolder, session: aiohttp.ClientSession
) -> None:
    source = """
from pathlib import Path
from cog import BasePredictor
class Predictor(BasePredictor):
    def setup(self):
        with Path("../started").open("a") as file:
            file.write("x")
        print("OSError: Address already in use", flush=True)
        raise OSError("Address already in use")
    def predict(self) -> str:
        return ""
"""
    (tmp_path / "worker").mkdir()
    schema = inspect_folder(folder := model_folder(source)).openapi
    spec = WorkerSpec("port", folder, schema, "predict.py:Predictor", "predict")
    worker = CogletWorker(spec, tmp_path / "worker", session, start_timeout=30)
    with pytest.raises(StartFailed, match="Address already in use"):
        await worker.start()
    assert (tmp_path / "worker" / "started").read_text() == "x"
    await worker.close()


def test_a_port_is_given_to_one_worker_at_a_time() -> None:
    ports = [_take_port(instead_of=0) for _ in range(500)]
    assert len(set(ports)) == len(ports)
    _ports.difference_update(ports)


async def test_a_worker_that_is_ended_while_it_copies_leaves_no_folder(
    tmp_path: Path, model_folder: ModelFolder, session: aiohttp.ClientSession
) -> None:
    folder = model_folder("")
    for number in range(2_000):
        (folder / str(number)).touch()
    (tmp_path / "worker").mkdir()
    spec = WorkerSpec("big", folder, {}, "predict.py:Predictor", "predict")
    worker = CogletWorker(spec, tmp_path / "worker", session, start_timeout=30)
    starting = asyncio.create_task(worker.start())
    while not (tmp_path / "worker" / "model").exists():
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await worker.close()
    assert worker._preparing
    assert worker._preparing.done()
    assert not (tmp_path / "worker").exists()


async def test_files_of_an_output_come_as_files_and_not_as_text(
    tmp_path: Path, model_folder: ModelFolder, session: aiohttp.ClientSession
) -> None:
    # Fails when a new Cog no longer lets its models be wrapped: data: URIs would come instead.
    source = """
from typing import Iterator
from cog import BasePredictor, Path
class Predictor(BasePredictor):
    def predict(self) -> Iterator[Path]:
        Path("a.txt").write_text("content")
        yield Path("a.txt")
"""
    (tmp_path / "worker").mkdir()
    schema = worker_schema(inspect_folder(folder := model_folder(source)).openapi, "predict")
    spec = WorkerSpec("files", folder, schema, "predict.py:Predictor", "predict")
    worker = CogletWorker(spec, tmp_path / "worker", session, start_timeout=30)
    await worker.start()
    files = []
    async for event in worker.run("some-run", {}):
        if isinstance(event, Produced):
            assert isinstance(event.value, OutputFile)
            assert event.value.path.read_text() == "content"
            files.append(event.value.path)
    assert [file.suffix for file in files] == [".txt"]
    assert not files[0].exists()  # nobody took it
    await worker.close()
