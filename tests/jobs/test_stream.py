"""The text of a prediction: streamed, completed from the prediction, and never told twice."""

import asyncio
import json
import time
from typing import Any

import pytest

from prefect_replicate.api.client import Client, Downloads
from prefect_replicate.api.errors import (
    AuthenticationError,
    DeadlineExceeded,
    JobCanceled,
    JobError,
    ModelError,
    OutputsExpired,
)
from prefect_replicate.api.resources import JobURLs, Prediction
from prefect_replicate.jobs.stream import TextStream, Told
from prefect_replicate.jobs.watch import Patience
from tests.api.conftest import (
    TOKEN,
    Script,
    answer,
    client,
    downloads,
    script,
    stream,
    transport,
)

__all__ = ["client", "downloads", "script", "transport"]  # Fixtures.


def _said(status: str = "succeeded", output: Any = None, **more: Any) -> bytes:
    job = {"id": "abc", "model": "o/n", "status": status, "output": output, **more}
    return answer(200, json.dumps(job))


def _events(*words: str, end: str | None = "{}", first: int = 0) -> bytes:
    said = [
        f"event: output\nid: 9:{first + place}\n"
        + "".join(f"data: {line}\n" for line in word.split("\n"))
        for place, word in enumerate(words)
    ]
    last = [] if end is None else [f"event: done\nid: 9:{first + len(words)}\ndata: {end}\n"]
    return stream("".join(f"{event}\n" for event in [": hi\n", *said, *last]))


def _text(
    script: Script, client: Client, downloads: Downloads, deadline: float = 30.0, **more: Any
) -> TextStream:
    urls = JobURLs(stream=f"{script.base_url}/streams/abc") if more.get("streams", True) else None
    job = Prediction(id="abc", status="starting", model="o/n", urls=urls or JobURLs())
    quick = Patience(deadline, poll_first=0.01, poll_last=more.get("poll_last", 5), look_every=5)
    return TextStream(client, downloads, job, quick)


async def _read_into(told: list[str], text: TextStream) -> None:
    """What comes before an error is kept."""
    async for piece in text.pieces():
        told.append(piece)  # noqa: PERF401 - as above


async def _all(text: TextStream) -> list[str]:
    return [piece async for piece in text.pieces()]


async def test_a_stream_is_the_text_and_the_prediction_confirms_it(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [_events("Hi", " there", "\n"), _said(output=["Hi", " there", "\n"])]
    assert await _all(_text(script, client, downloads)) == ["Hi", " there", "\n"]
    assert [line.split()[1] for line in script.lines] == ["/streams/abc", "/v1/predictions/abc"]
    assert TOKEN.encode() not in script.requests[0]
    assert TOKEN.encode() in script.requests[1]


async def test_a_cut_stream_goes_on_while_the_prediction_does(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [
        _events("a", "b", end=None),
        _said("processing"),
        _events("a", "b", "c"),
        _said(output=["a", "b", "c"]),
    ]
    assert await _all(_text(script, client, downloads)) == ["a", "b", "c"]


async def test_a_prediction_that_ended_meanwhile_completes_a_cut_stream(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [_events("a", "b", end=None), *[_said(output=["a", "b", "c", "d"])] * 2]
    assert await _all(_text(script, client, downloads)) == ["a", "b", "c", "d"]
    assert len(script.requests) == 3


async def test_a_stream_that_cannot_be_read_leaves_it_to_the_prediction(
    script: Script, client: Client, downloads: Downloads
) -> None:
    growing = [_said("processing", ["a"]), _said("processing", ["a", "b"]), _said("processing")]
    script.answers = [answer(404), *growing, _said(output=["a", "b", "c"])]
    assert await _all(_text(script, client, downloads)) == ["a", "b", "c"]


async def test_a_model_that_does_not_stream_gives_its_text_at_the_end(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [_said("processing", "half"), _said(output="the whole")]
    assert await _all(_text(script, client, downloads, streams=False)) == ["the whole"]


@pytest.mark.parametrize(
    ("output", "pieces"),
    [
        (["https://files/1.png", "https://files/2.png"], None),
        ("https://files/1.png", ["https://files/1.png"]),
        (None, []),
        ([], []),
    ],
    ids=["files", "a file", "nothing", "none"],
)
async def test_other_outputs_are_given_as_they_are(
    script: Script, client: Client, downloads: Downloads, output: Any, pieces: list[str] | None
) -> None:
    script.answers = [_said(output=output)]
    text = _text(script, client, downloads, streams=False)
    assert await _all(text) == (output if pieces is None else pieces)


async def test_line_ends_that_events_cannot_carry_are_no_difference(
    script: Script, client: Client, downloads: Downloads
) -> None:
    output = ["a\r\nb", "c\rd", "\r", "e"]
    script.answers = [_events("a\nb", "c\nd", "\n", end=None), *[_said(output=output)] * 2]
    assert await _all(_text(script, client, downloads)) == ["a\nb", "c\nd", "\n", "e"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (["a", "x", "c"], "does not begin with what it streamed"),
        (["a"], "does not begin with what it streamed"),
        ({"no": "text"}, "is not text"),
        (["a", 1], "is not text"),
    ],
)
async def test_an_output_that_is_not_what_was_streamed_is_an_error_that_has_it(
    script: Script, client: Client, downloads: Downloads, output: Any, words: str
) -> None:
    script.answers = [_events("a", "b"), _said(output=output)]
    text, told = _text(script, client, downloads), list[str]()
    with pytest.raises(JobError, match=words) as caught:
        await _read_into(told, text)
    assert told == ["a", "b"]
    assert caught.value.job is not None
    assert caught.value.job.output == output


async def test_a_failure_comes_after_what_was_streamed_and_again_each_time(
    script: Script, client: Client, downloads: Downloads
) -> None:
    failed = _said("failed", error="no such colour")
    script.answers = [_events("a", "b", end='{"reason": "error"}'), _said("processing"), failed]
    text, told = _text(script, client, downloads), list[str]()
    with pytest.raises(ModelError, match="no such colour"):
        await _read_into(told, text)
    assert (told, bool(text.told), text.resumable) == (["a", "b"], True, False)
    with pytest.raises(ModelError, match="no such colour"):
        await _all(text)
    assert len(script.requests) == 3


async def test_a_text_whose_reader_was_slower_than_the_hour_of_its_output_is_not_lost(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [_events("a", "b"), _said(data_removed=True)]
    assert await _all(_text(script, client, downloads)) == ["a", "b"]
    script.answers = [_events(), _said(data_removed=True)]
    with pytest.raises(OutputsExpired):
        await _all(_text(script, client, downloads))


async def test_after_an_error_it_goes_on_where_it_was(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [_events("a", "b", end=None), answer(401)]
    text, told = _text(script, client, downloads), list[str]()
    with pytest.raises(AuthenticationError, match="may still be running"):
        await _read_into(told, text)
    assert text.resumable
    script.answers = [_events("a", "b", "c"), _said(output=["a", "b", "c", "d"])]
    assert told + await _all(text) == ["a", "b", "c", "d"]


async def test_a_reader_that_stops_cancels_the_job(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [_events("a", "b"), _said("canceled")]
    text = _text(script, client, downloads)
    pieces = text.pieces()
    assert await anext(pieces) == "a"
    await pieces.aclose()
    assert script.lines[-1] == "POST /v1/predictions/abc/cancel HTTP/1.1"
    with pytest.raises(JobCanceled, match=r"reader stopped.*was canceled"):
        await _all(text)


async def test_a_reader_that_is_cancelled_cancels_the_job(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [_said("canceled"), _events("too late")]
    script.pauses = [20.0, 0.0]
    script.answers.reverse()
    reading = asyncio.ensure_future(_all(_text(script, client, downloads)))
    while not script.requests:
        await asyncio.sleep(0.01)
    # The stream has not been answered yet: its answer stays the first of the script.
    script.answers.reverse()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert script.lines[-1] == "POST /v1/predictions/abc/cancel HTTP/1.1"


async def test_a_reader_that_stops_after_the_end_cancels_nothing(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [_said(output=["a", "b"])]
    pieces = _text(script, client, downloads, streams=False).pieces()
    assert await anext(pieces) == "a"
    await pieces.aclose()
    assert len(script.requests) == 1


async def test_a_stream_that_stalls_does_not_outlive_the_deadline(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [_said("canceled"), _events("too late")]
    script.pauses = [20.0, 0.0]
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"deadline of 0.3 s passed.*was canceled"):
        await _all(_text(script, client, downloads, deadline=0.3))
    assert time.monotonic() - begun < 15  # Far from the 20 s of the stream.


async def test_a_stream_that_stalls_for_good_does_not_hide_the_end(
    script: Script, client: Client, downloads: Downloads
) -> None:
    script.answers = [_said("processing"), *[_said(output=["a"])] * 2, _events("too late")]
    script.pauses = [20.0, 0.0, 0.0]
    begun = time.monotonic()
    assert await _all(_text(script, client, downloads, poll_last=0.1)) == ["a"]
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    ("told", "output", "rest"),
    [
        ([], ["a", "b"], ["a", "b"]),
        (["a"], ["a", "b"], ["b"]),
        (["ab", "c"], ["a", "b", "cd", "e"], ["d", "e"]),
        (["ab"], ["ab"], []),
        (["ab"], ["a"], None),
        (["ab"], ["ax"], None),
        (["ab"], ["axc"], None),
        (["ab"], [], None),
        (["a"], ["", "a", "", "b", "", "c"], ["b", "c"]),
        (["a\n"], ["a\r\n", "\r"], ["\r"]),
        (["\ud800"], ["\ud800x"], ["x"]),
    ],
)
def test_the_rest_of_a_text_is_what_was_not_told(
    told: list[str], output: list[str], rest: list[str] | None
) -> None:
    so_far = Told()
    for piece in told:
        so_far.add(piece)
    assert (so_far.rest(output), bool(so_far)) == (rest, bool(told))
