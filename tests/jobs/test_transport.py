"""The setting `transport`, and what aiohttp's connections do to a process that forks."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator

import pytest

from prefect_replicate.api import calls
from prefect_replicate.api.client import Access
from prefect_replicate.api.errors import ConfigurationError
from prefect_replicate.jobs.engine import engine
from tests.api.conftest import Script, answer

SETTING = "PREFECT_INTEGRATIONS_REPLICATE_TRANSPORT"


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    """A scripted server on a free port, so that its client is a new one."""
    it = Script(answers=[answer(200, '{"username": "me"}')] * 3)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield it
    server.close()


async def ask(script: Script) -> str:
    """Send a request from the engine; say what carries it."""
    access = Access(script.base_url, "r8_x")

    async def send() -> str:
        client = engine().client(access)
        await client.send(calls.account_get())
        return type(client._http).__name__

    return await engine().arun(send)


@pytest.mark.parametrize(
    ("setting", "carrier"),
    [(None, "AsyncClient"), ("httpx", "AsyncClient"), ("aiohttp", "OverAiohttp")],
)
async def test_the_setting_chooses_what_carries_requests(
    script: Script, monkeypatch: pytest.MonkeyPatch, setting: str | None, carrier: str
) -> None:
    if setting:
        monkeypatch.setenv(SETTING, setting)
    assert await ask(script) == carrier


async def test_a_transport_that_is_none_is_a_mistake_in_the_settings(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING, "pigeon")
    with pytest.raises(ConfigurationError, match="settings of prefect-replicate cannot be read"):
        await ask(script)
    assert script.requests == []


async def test_a_forked_child_leaves_the_connections_of_its_parent_alone(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING, "aiohttp")
    await ask(script)
    child = os.fork()
    if child == 0:
        try:
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    async with asyncio.timeout(10):
        await ask(script)
    assert script.connections == 1
