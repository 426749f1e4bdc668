"""What the official Python client does against Local Replicate: runs, streams, files, errors."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput

from prefect_replicate import LocalReplicate
from tests.clients.conftest import Models

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
DATA = "data:text/plain;base64," + base64.b64encode(b"paper").decode()
MANY = 2000


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "größer als eins.png"
    path.write_bytes(PICTURE)
    return path


# --- running ---


def test_a_run_gives_the_text_that_the_model_returns(client: Client, models: Models) -> None:
    assert client.run(models.actor, input={"text": "hi", "times": 2}) == "base: hihi"


def test_an_official_model_is_run_by_its_name(client: Client, models: Models) -> None:
    assert client.run("acme/echo", input={"text": "by name"}) == "by name"


def test_a_version_object_is_run(client: Client, models: Models) -> None:
    name, _, number = models.actor.partition(":")
    version = client.models.get(name).versions.get(number)
    prediction = client.predictions.create(version=version, input={"text": "x"}, wait=True)
    assert prediction.output == "base: x"


def test_a_run_that_polls_gives_the_same(client: Client, models: Models) -> None:
    assert client.run(models.actor, input={"text": "hi"}, wait=False) == "base: hi"


def test_a_run_outlasts_the_wait_that_it_asked_for(client: Client, models: Models) -> None:
    asked = {"text": "late", "act": "sleep", "seconds": 1.2}
    assert client.run(models.actor, input=asked, wait=1) == "base: late"


@pytest.mark.parametrize("wait", [True, False])
def test_an_iterator_is_run_as_one(client: Client, models: Models, wait: bool) -> None:
    parts = client.run(models.counter, input={"to": 3, "pause": 0.05}, wait=wait)
    assert not isinstance(parts, list)
    assert list(parts) == ["0 ", "1 ", "2 "]


# --- files that come out ---


def test_a_file_over_http_stays_a_string(client: Client, models: Models, picture: Path) -> None:
    url = client.run(models.copier, input={"paper": picture})
    assert isinstance(url, str)
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith(".png")
    assert httpx.get(url).content == PICTURE


def test_a_list_of_files_is_a_list_of_urls(client: Client, models: Models) -> None:
    urls = client.run(models.painter, input={"count": 2})
    assert [httpx.get(url).content for url in urls] == [b"blank0", b"blank1"]


def test_a_data_uri_becomes_a_file_output(client: Client, models: Models) -> None:
    output = client.run(models.echo, input={"text": DATA})
    assert isinstance(output, FileOutput)
    assert output.read() == b"paper"
    assert b"".join(output) == b"paper"


def test_a_data_uri_stays_a_string_if_asked(client: Client, models: Models) -> None:
    assert client.run(models.echo, input={"text": DATA}, use_file_output=False) == DATA


def test_an_output_is_the_next_models_input(client: Client, models: Models) -> None:
    (first,) = client.run(models.painter, input={})
    url: Any = client.run(models.copier, input={"paper": first})
    assert httpx.get(url).content == b"blank0"


# --- files that go in ---


@pytest.mark.parametrize("strategy", [None, "url", "base64"])
@pytest.mark.parametrize(
    "opened",
    [lambda path: path, lambda path: path.open("rb"), lambda path: io.BytesIO(path.read_bytes())],
    ids=["path", "open file", "bytes"],
)
def test_a_file_goes_in_in_every_way(
    client: Client, models: Models, picture: Path, opened: Callable[[Path], Any], strategy: Any
) -> None:
    paper = {"paper": opened(picture)}
    url: Any = client.run(models.copier, input=paper, file_encoding_strategy=strategy)
    assert httpx.get(url).content == PICTURE


def test_an_uploaded_input_is_shown_by_its_url(
    client: Client, models: Models, picture: Path
) -> None:
    prediction = client.predictions.create(models.copier.partition(":")[2], {"paper": picture})
    assert prediction.input
    file = client.files.get(prediction.input["paper"].rsplit("/", 1)[-1])
    assert (file.name, file.content_type) == (picture.name, "image/png")
    assert file.size == len(PICTURE)


def test_a_file_is_stored_listed_and_deleted(client: Client, picture: Path) -> None:
    file = client.files.create(picture, metadata={"of": "a test"})
    assert file.metadata == {"of": "a test"}
    assert client.files.get(file.id) == file
    assert file.id in [stored.id for stored in client.files.list()]
    assert client.files.delete(file.id)
    with pytest.raises(ReplicateError, match="File not found"):
        client.files.get(file.id)


# --- predictions ---


def test_a_prediction_is_followed_to_its_end(client: Client, models: Models) -> None:
    prediction = client.predictions.create(models.actor, input={"text": "some words"})
    assert prediction.status == "starting"
    prediction.wait()
    assert (prediction.status, prediction.output) == ("succeeded", "base: some words")
    assert prediction.logs == "asked to say\na warning\n"
    assert prediction.metrics
    assert prediction.metrics["words"] == 2
    assert client.predictions.get(prediction.id) == prediction


def test_a_prediction_waits_in_the_request(client: Client, models: Models) -> None:
    prediction = client.predictions.create(models.actor, input={"text": "x"}, wait=10)
    assert prediction.status == "succeeded"


def test_a_canceled_prediction_ends_its_stream(client: Client, models: Models) -> None:
    prediction = client.predictions.create(models.counter, input={"to": MANY, "pause": 0.01})
    stream = prediction.stream()
    assert str(next(stream)) == "0 "
    prediction.cancel()
    assert prediction.status == "canceled"
    assert [event.data for event in stream][-1] == '{"reason":"canceled"}'
    prediction.reload()
    assert prediction.status == "canceled"
    assert prediction.completed_at


def test_progress_is_read_from_logs(client: Client, models: Models) -> None:
    number = models.echo.partition(":")[2]
    progress = client.predictions.create(number, {"text": "x"}, wait=True).progress
    assert progress
    assert (progress.percentage, progress.current, progress.total) == (0.5, 1, 2)


# --- streams ---


@pytest.mark.parametrize("by_name", [True, False])
def test_a_stream_gives_output_as_it_comes(client: Client, models: Models, by_name: bool) -> None:
    reference = "acme/counter" if by_name else models.counter
    events = list(client.stream(reference, input={"to": 3}))
    assert [event.event.value for event in events] == ["output"] * 3 + ["done"]
    assert "".join(map(str, events)) == "0 1 2 "


def test_a_model_without_a_stream_is_not_streamed(client: Client, models: Models) -> None:
    with pytest.raises(ReplicateError, match="does not support streaming"):
        list(client.stream(models.actor, input={"text": "x"}))


def test_a_stream_ends_with_the_models_error(client: Client, models: Models) -> None:
    stream = client.stream(models.counter, input={"to": 3, "pause": -1})
    assert str(next(stream)) == "0 "
    with pytest.raises(RuntimeError, match='"ValueError: sleep length'):
        next(stream)


# --- errors ---


@pytest.mark.parametrize("wait", [True, False])
def test_a_failed_model_is_a_model_error(client: Client, models: Models, wait: bool) -> None:
    with pytest.raises(ModelError, match="I cannot") as caught:
        client.run(models.actor, input={"text": "x", "act": "fail"}, wait=wait)
    assert caught.value.prediction.status == "failed"
    assert caught.value.prediction.logs == "asked to fail\na warning\n"


@pytest.mark.parametrize(
    "input", [{}, {"text": "x", "times": 99}, {"text": 1}, {"text": "x", "act": "sing"}]
)
def test_a_wrong_input_is_refused(client: Client, models: Models, input: dict[str, Any]) -> None:
    with pytest.raises(ReplicateError) as caught:
        client.run(models.actor, input=input)
    assert (caught.value.status, caught.value.title) == (422, "Input validation failed")
    assert caught.value.detail
    assert caught.value.detail.startswith("- input")


def test_an_unknown_version_is_refused(client: Client, models: Models) -> None:
    with pytest.raises(ReplicateError) as caught:
        client.run("acme/actor:" + "0" * 64, input={"text": "x"})
    assert (caught.value.status, caught.value.title) == (422, "Invalid version or not permitted")


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.predictions.get("nothing"),
        lambda client: client.predictions.cancel("nothing"),
        lambda client: client.trainings.get("nothing"),
        lambda client: client.models.get("acme/nothing"),
        lambda client: client.deployments.get("local/nothing"),
        lambda client: client.run("acme/actor", input={"text": "x"}),  # a community model
    ],
    ids=["prediction", "cancel", "training", "model", "deployment", "community model"],
)
def test_what_is_not_there_is_404(
    client: Client, models: Models, ask: Callable[[Client], Any]
) -> None:
    with pytest.raises(ReplicateError) as caught:
        ask(client)
    assert caught.value.status == 404
    assert caught.value.detail


@pytest.mark.parametrize("token", ["r8_wrong", None], ids=["wrong", "missing"])
def test_without_the_token_everything_is_401(server: LocalReplicate, token: str | None) -> None:
    with pytest.raises(ReplicateError) as caught:
        Client(token, base_url=server.base_url).models.list()
    assert (caught.value.status, caught.value.title) == (401, "Unauthenticated")
