import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from prefect_replicate.local import Behaviour, LocalReplicate
from prefect_replicate.local.runs import new_run
from prefect_replicate.local.streams import EventStream, follow
from tests.local.conftest import Api, ModelFolder, write_model

SPEAKER = """
import json, time
from typing import Iterator
from cog import BasePredictor

class Predictor(BasePredictor):
    def predict(self, parts: str = '["one", "two", "three"]', then: str = "end") -> Iterator[str]:
        yield from json.loads(parts)
        if then == "fail":
            raise ValueError("lost my voice")
        while then == "wait":
            time.sleep(0.05)
"""
PAINTERS = """
from typing import Iterator
from cog import BasePredictor, Path

class Predictor(BasePredictor):
    def predict(self, count: int = 2) -> Iterator[Path]:
        for number in range(count):
            path = Path(f"{number}.txt")
            path.write_text(f"picture {number}")
            yield path
"""
NUMBERS = """
from typing import Iterator
from cog import BasePredictor

class Predictor(BasePredictor):
    def predict(self, to: int = 2) -> Iterator[int]:
        yield from range(to)
"""


@pytest.fixture(scope="module")
def speaker_folder(folders: Path) -> Path:
    return write_model(folders / "speaker", SPEAKER)


@pytest.fixture(scope="module")
def speaker(server: LocalReplicate, speaker_folder: Path) -> str:
    return server.push(speaker_folder, "acme/speaker")


@pytest.fixture(scope="module")
def restless(speaker_folder: Path) -> Iterator[tuple[Api, str]]:
    """A server that closes idle streams soon, and its speaker."""
    with LocalReplicate(behaviour=Behaviour(stream_idle=0.4)) as server:
        yield Api(server), server.push(speaker_folder, "acme/speaker")


def events(response: httpx.Response) -> list[ServerSentEvent]:
    return list(EventSource(response).iter_sse())


def read(url: str, after: str = "") -> list[tuple[str, str]]:
    """All events of a stream, as a client without a token gets them."""
    headers = {"Last-Event-ID": after} if after else {}
    with httpx.stream("GET", url, headers=headers, timeout=30) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [(event.event, event.data) for event in events(response)]


def stream_of(prediction: dict[str, Any]) -> str:
    return str(prediction["urls"]["stream"])


def test_output_comes_part_by_part_while_the_model_runs(api: Api, speaker: str) -> None:
    prediction = api.predict(speaker, prefer="", then="wait")
    with httpx.stream("GET", stream_of(prediction), timeout=30) as response:
        source = EventSource(response).iter_sse()
        assert [next(source).data for _ in range(3)] == ["one", "two", "three"]
        running = api.http.get(prediction["urls"]["get"]).json()
        assert running["status"] == "processing"
        assert running["urls"]["stream"] == stream_of(prediction)
        api.http.post(prediction["urls"]["cancel"])
        done = next(source)
        assert (done.event, done.json()) == ("done", {"reason": "canceled"})
        assert list(source) == []


def test_a_success_ends_with_done(api: Api, speaker: str) -> None:
    parts = [("output", "one"), ("output", "two"), ("output", "three"), ("done", "{}")]
    assert read(stream_of(api.predict(speaker, prefer=""))) == parts
    assert read(stream_of(api.predict(speaker))) == parts


def test_a_failure_ends_with_the_error_and_done(api: Api, speaker: str) -> None:
    *output, error, done = read(stream_of(api.predict(speaker, prefer="", then="fail")))
    assert [data for _, data in output] == ["one", "two", "three"]
    assert (error[0], json.loads(error[1])) == ("error", {"detail": "ValueError: lost my voice"})
    assert (done[0], json.loads(done[1])) == ("done", {"reason": "error"})


def test_the_wire_format_is_as_clients_of_replicate_know_it(api: Api, speaker: str) -> None:
    prediction = api.predict(speaker, parts='["a\\nb"]')
    text = httpx.get(stream_of(prediction)).text
    assert re.fullmatch(
        r": hi\n\n"
        r"event: output\nid: (\d{10}):0\ndata: a\ndata: b\n\n"
        r"event: done\nid: \1:1\ndata: \{\}\n\n",
        text,
    )


@pytest.mark.parametrize(
    "parts",
    [["a\nb\n", "\n", "", " c", "data: d", "e\r\nf"], ["é", "\u2028\x85", "\x00", ":", "😀"]],
)
def test_any_text_arrives_as_it_was_said(api: Api, speaker: str, parts: list[str]) -> None:
    url = stream_of(api.predict(speaker, parts=json.dumps(parts)))
    said = [data for event, data in read(url) if event == "output"]
    assert said == [part.replace("\r\n", "\n") for part in parts]


def test_a_return_in_a_text_cannot_forge_an_event(api: Api, speaker: str) -> None:
    parts = ["x\r\rid: 9:9\revent: done\rdata: {}\r\r"]
    url = stream_of(api.predict(speaker, parts=json.dumps(parts)))
    assert [event for event, _ in read(url)] == ["output", "done"]


def test_files_are_streamed_as_their_urls(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    version = server.push(model_folder(PAINTERS), "acme/painters")
    prediction = api.predict(version)
    urls = [data for event, data in read(stream_of(prediction)) if event == "output"]
    assert urls == prediction["output"]
    assert [httpx.get(url).text for url in urls] == ["picture 0", "picture 1"]


def test_what_is_no_text_is_streamed_as_json(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    version = server.push(model_folder(NUMBERS), "acme/numbers")
    assert read(stream_of(api.predict(version)))[:2] == [("output", "0"), ("output", "1")]


def test_a_client_that_comes_again_gets_what_came_after(api: Api, speaker: str) -> None:
    prediction = api.predict(speaker, prefer="", then="wait")
    with httpx.stream("GET", stream_of(prediction), timeout=30) as response:
        source = EventSource(response).iter_sse()
        first, second = next(source), next(source)
    assert first.id != second.id
    with httpx.stream(
        "GET", stream_of(prediction), headers={"Last-Event-ID": first.id}, timeout=30
    ) as response:
        again = EventSource(response).iter_sse()
        assert [(event.data, event.id) for event in (next(again),)] == [("two", second.id)]
        assert next(again).data == "three"
        api.http.post(prediction["urls"]["cancel"])
        end = next(again)
    done = ("done", '{"reason":"canceled"}')
    assert read(stream_of(prediction), after=second.id) == [("output", "three"), done]
    assert read(stream_of(prediction), after=end.id) == [done]


@pytest.mark.parametrize("unknown", ["1:0", "nonsense", "0", ":", "9999999999:1"])
def test_an_id_of_another_stream_means_from_the_beginning(
    api: Api, speaker: str, unknown: str
) -> None:
    assert len(read(stream_of(api.predict(speaker)), after=unknown)) == 4


def test_an_error_is_told_once_to_a_client_that_has_it(api: Api, speaker: str) -> None:
    url = stream_of(api.predict(speaker, then="fail"))
    *_, error, done = events(httpx.get(url))
    assert [event for event, _ in read(url, after=error.id)] == ["done"]
    assert [event for event, _ in read(url, after=done.id)] == ["done"]


def test_an_idle_stream_is_closed_and_can_be_taken_up_again(restless: tuple[Api, str]) -> None:
    api, version = restless
    prediction = api.predict(version, prefer="", then="wait")
    api.until(prediction, lambda run: len(run["output"] or []) == 3)
    text = httpx.get(stream_of(prediction)).text
    assert text.endswith("data: three\n\n:408: 408 Request Timeout\n\n")
    *_, last = re.findall("id: (.*)", text)
    text = httpx.get(stream_of(prediction), headers={"Last-Event-ID": last}).text
    assert text == ": hi\n\n:408: 408 Request Timeout\n\n"
    api.http.post(prediction["urls"]["cancel"])


def test_only_models_that_yield_have_a_stream(api: Api, actor: str, painter: str) -> None:
    for version, asked in ((actor, {"text": "x"}), (painter, {})):
        prediction = api.predict(version, **asked)
        assert "stream" not in prediction["urls"]
        answer = httpx.get(f"{api.server.base_url}/v1/streams/{prediction['id']}")
        assert answer.status_code == 404


def test_trainings_have_no_stream(api: Api, actor: str) -> None:
    api.model("local", "silent")
    training = api.train(actor, "local/silent", data="data:,x").json()
    assert "stream" not in training["urls"]
    assert "stream" not in api.end(training)["urls"]


def test_an_unknown_stream_is_not_found_in_words_that_every_client_reads(api: Api) -> None:
    answer = httpx.get(f"{api.server.base_url}/v1/streams/nothing")
    assert answer.status_code == 404
    assert [event.event for event in events(answer)] == ["error", "done"]
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_stream_outlives_its_server(tmp_path: Path, speaker_folder: Path) -> None:
    with LocalReplicate(tmp_path) as server:
        prediction = Api(server).predict(server.push(speaker_folder, "acme/speaker"))
        before = httpx.get(stream_of(prediction)).text
    with LocalReplicate(tmp_path) as server:
        run = Api(server).http.get(f"/predictions/{prediction['id']}").json()
        assert httpx.get(stream_of(run)).text == before


def test_a_stop_ends_the_streams_of_what_runs(speaker_folder: Path) -> None:
    with LocalReplicate() as server:
        version = server.push(speaker_folder, "acme/speaker")
        prediction = Api(server).predict(version, prefer="", then="wait")
        with httpx.stream("GET", stream_of(prediction), timeout=30) as response:
            source = EventSource(response).iter_sse()
            assert [next(source).data for _ in range(3)] == ["one", "two", "three"]
            server.stop()
            assert [event.event for event in source] == ["error", "done"]


def test_many_parts_are_streamed_whole(api: Api, speaker: str) -> None:
    parts = [f"{number} {'x' * 2000}" for number in range(500)]
    url = stream_of(api.predict(speaker, prefer="", parts=json.dumps(parts)))
    assert [data for _, data in read(url)] == [*parts, "{}"]


def test_a_client_that_leaves_is_forgotten(api: Api, speaker: str) -> None:
    prediction = api.predict(speaker, prefer="", then="wait")
    service = api.server._require()._service
    assert service
    live = service.runs._live[prediction["id"]]
    with httpx.stream("GET", stream_of(prediction), timeout=30) as response:
        source = EventSource(response).iter_sse()
        next(source)
        assert len(live.watchers) == 1
    api.until(prediction, lambda _: not live.watchers)
    api.http.post(prediction["urls"]["cancel"])


async def test_little_is_made_ready_for_a_client_that_reads_slowly() -> None:
    run = new_run(datetime.now(UTC), kind="prediction", model="acme/model", version="v", input={})
    run.status, run.output = "succeeded", ["x" * 1000] * 10_000
    stream = follow(run, nullcontext(asyncio.Event()), "http://x", "", idle=1)
    assert await anext(stream) == ": hi\n\n"
    assert len(await anext(stream)) < 100_000


async def test_a_client_that_stops_reading_is_given_up() -> None:
    run = new_run(datetime.now(UTC), kind="prediction", model="acme/model", version="v", input={})
    run.status, run.output = "succeeded", ["x"]
    stream = follow(run, nullcontext(asyncio.Event()), "http://x", "", idle=1)

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    await asyncio.wait_for(EventStream(stream, 0.005)(scope, never, never), 20)


def test_a_head_of_a_stream_is_answered_at_once(api: Api, counter: str) -> None:
    running = api.predict(counter, prefer="", to=5, pause=30)
    response = httpx.head(stream_of(running), timeout=5)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.content == b""
    api.http.post(running["urls"]["cancel"])
