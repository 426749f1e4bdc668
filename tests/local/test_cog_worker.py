import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_replicate.local.cog_worker import CogletWorker, server_sent
from prefect_replicate.local.engine import StartFailed, WorkerSpec
from tests.local.conftest import ModelFolder


async def _events(chunks: list[bytes]) -> list[tuple[str, dict[str, Any]]]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [event async for event in server_sent(stream())]


@pytest.mark.parametrize(
    "chunks",
    [
        [b'event: a\ndata: {"n":1}\n\n: hi\n\nevent: b\ndata: {}\n\n'],
        [b"event: a\nda", b'ta: {"n":1}\n', b"\n: hi\n\nevent: b\ndata: {}\n\n"],
        [bytes([byte]) for byte in b'event: a\ndata: {"n":1}\n\nevent: b\ndata: {}\n\n'],
        [b'event: a\ndata: {"n":1}\n\nevent: b\ndata: {}\n\nevent: cut\ndata: {'],
    ],
    ids=["at once", "in pieces", "byte by byte", "cut off"],
)
async def test_events_are_read_however_they_are_cut(chunks: list[bytes]) -> None:
    assert await _events(chunks) == [("a", {"n": 1}), ("b", {})]


async def test_a_worker_that_is_not_ready_in_time_is_given_up_and_ended(
    tmp_path: Path, model_folder: ModelFolder
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
    transport = httpx.AsyncHTTPTransport()
    worker = CogletWorker(spec, tmp_path / "worker", transport, start_timeout=0.5)
    (tmp_path / "worker").mkdir()
    with pytest.raises(StartFailed, match=r"E6716: the model was not ready after 0\.5 s"):
        await worker.start()
    await asyncio.wait_for(worker.close(), 10)
    assert not worker.usable
    assert not (tmp_path / "worker").exists()
