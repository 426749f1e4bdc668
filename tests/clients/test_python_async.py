"""The asynchronous half of the official Python client, call by call what the other half does."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.pagination import async_paginate
from replicate.training import Training

from prefect_replicate import LocalReplicate
from tests.clients.conftest import Models

PICTURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
async def client(server: LocalReplicate) -> AsyncIterator[Client]:
    client = Client(api_token=server.token, base_url=server.base_url)
    client.poll_interval = 0.02
    yield client
    await client._async_client.aclose()


def number(reference: str) -> str:
    return reference.partition(":")[2]


@pytest.mark.parametrize("wait", [True, False])
async def test_it_runs_text(client: Client, models: Models, wait: bool) -> None:
    assert await client.async_run(models.actor, input={"text": "hi"}, wait=wait) == "base: hi"


async def test_it_runs_many_at_once(client: Client, models: Models) -> None:
    texts = [f"text {at}" for at in range(20)]
    runs = [client.async_run("acme/echo", input={"text": text}) for text in texts]
    assert await asyncio.gather(*runs) == texts


@pytest.mark.parametrize("wait", [True, False])
async def test_it_runs_an_iterator(client: Client, models: Models, wait: bool) -> None:
    asked = {"to": 3, "pause": 0.05}
    parts: Any = await client.async_run(models.counter, input=asked, wait=wait)
    assert [part async for part in parts] == ["0 ", "1 ", "2 "]


@pytest.mark.parametrize("strategy", ["url", "base64"])
async def test_a_file_goes_in_and_out(client: Client, models: Models, strategy: Any) -> None:
    asked = {"paper": io.BytesIO(PICTURE)}
    url: Any = await client.async_run(models.copier, input=asked, file_encoding_strategy=strategy)
    assert httpx.get(url).content == PICTURE


async def test_a_data_uri_becomes_a_file_output(client: Client, models: Models) -> None:
    output = await client.async_run("acme/echo", input={"text": "data:;base64,cGFwZXI="})
    assert isinstance(output, FileOutput)
    assert await output.aread() == b"paper"


@pytest.mark.parametrize("by_name", [True, False])
async def test_it_streams(client: Client, models: Models, by_name: bool) -> None:
    reference = "acme/counter" if by_name else models.counter
    stream = await client.async_stream(reference, input={"to": 3})
    events = [event async for event in stream]
    assert "".join(map(str, events)) == "0 1 2 "
    assert events[-1].event.value == "done"


async def test_it_creates_follows_and_cancels_predictions(client: Client, models: Models) -> None:
    asked = {"to": 2000, "pause": 0.01}
    prediction = await client.predictions.async_create(number(models.counter), asked)
    assert prediction.status == "starting"
    while prediction.status == "starting":
        await prediction.async_reload()
    await prediction.async_cancel()
    assert prediction.status == "canceled"
    assert (await client.predictions.async_get(prediction.id)).status == "canceled"
    other = await client.predictions.async_create(number(models.echo), {"text": "x"})
    await other.async_wait()
    assert other.output == "x"


async def test_a_failed_model_is_a_model_error(client: Client, models: Models) -> None:
    with pytest.raises(ModelError, match="I cannot"):
        await client.async_run(models.actor, input={"text": "x", "act": "fail"})


async def test_what_is_not_there_is_404(client: Client) -> None:
    with pytest.raises(ReplicateError) as caught:
        await client.predictions.async_get("nothing")
    assert caught.value.status == 404


async def test_it_pages_through_predictions(client: Client, models: Models) -> None:
    version = number(models.echo)
    made = [client.predictions.async_create(version, {"text": "x"}) for _ in range(101)]
    ids = {prediction.id for prediction in await asyncio.gather(*made)}
    pages = [page async for page in async_paginate(client.predictions.async_list)]
    assert len(pages[0]) == 100
    assert pages[0].previous is None
    assert pages[1].previous
    listed = [prediction.id for page in pages for prediction in page]
    assert ids <= set(listed)
    assert len(listed) == len(set(listed))


async def test_it_trains(client: Client, models: Models) -> None:
    name = "local/tuned-later"
    await client.models.async_create("local", "tuned-later", visibility="private", hardware="cpu")
    training: Training = await client.trainings.async_create(
        model="acme/actor",
        version=number(models.actor),
        input={"data": io.BytesIO(b"notes")},
        destination=name,
    )
    while training.status in {"starting", "processing"}:
        await asyncio.sleep(0.02)
        training = await client.trainings.async_get(training.id)
    assert training.output
    said = await client.async_run(training.output["version"], input={"text": "x"})
    assert said == "tuned on notes: x"
    assert training.id in [each.id for each in await client.trainings.async_list()]
    # What has ended stays as it is.
    assert (await client.trainings.async_cancel(training.id)).status == "succeeded"


async def test_it_deploys(client: Client, models: Models) -> None:
    deployment = await client.deployments.async_create(
        name="asynchronous",
        model="acme/echo",
        version=number(models.echo),
        hardware="cpu",
        min_instances=0,
        max_instances=1,
    )
    assert deployment == await client.deployments.async_get("local/asynchronous")
    prediction = await deployment.predictions.async_create({"text": "x"}, wait=True)
    assert prediction.output == "x"
    changed = await client.deployments.async_update("local", "asynchronous", max_instances=2)
    assert changed.current_release
    assert changed.current_release.number == 2
    assert deployment.name in [each.name for each in await client.deployments.async_list()]
    assert await client.deployments.async_delete("local", "asynchronous")


async def test_it_reads_what_there_is(client: Client, models: Models) -> None:
    assert (await client.accounts.async_current()).username == "local"
    assert "cpu" in [hardware.sku for hardware in await client.hardware.async_list()]
    assert (await client.webhooks.default.async_secret()).key.startswith("whsec_")
    model = await client.models.async_get("acme/echo")
    versions = await model.versions.async_list()
    assert versions[0] == await model.versions.async_get(number(models.echo))
    assert "echo" in [found.name for found in await client.models.async_search("echo")]
    assert [collection.slug for collection in await client.collections.async_list()] == ["local"]


async def test_it_stores_files(client: Client) -> None:
    file = await client.files.async_create(io.BytesIO(PICTURE), filename="a.png")
    assert await client.files.async_get(file.id) == file
    assert file in await client.files.async_list()
    assert await client.files.async_delete(file.id)
