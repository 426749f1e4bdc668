"""Server-sent events: parsed wherever chunks are cut, and read on across lost connections."""

import json

import pytest

from prefect_replicate.api.client import Downloads
from prefect_replicate.api.streaming import (
    CUT,
    LARGEST,
    MOST_IN_VAIN,
    Event,
    Parser,
    Stream,
    Unstreamable,
)
from tests.api.conftest import CUT as NO_ANSWER
from tests.api.conftest import TOKEN, Script, answer, stream


def _parse(*chunks: bytes) -> list[Event]:
    parser = Parser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


ODD = (
    "\ufeff: hi\n\n"
    "event: output\r\nid: 7:0\r\ndata: Grüße, 世界 🌍\r\n\r\n"
    "id: 7:1\revent: output\rdata: a\u2028b\x0bc\x85d\x1ce\r\r"
    ":comment\nevent: output\nid: 7:2\ndata: one\ndata:two\ndata:  three\ndata\n\n"
    "event: output\ndata:\n\n"
    "unknown: field\nevent: surprise\nid: 7:3\ndata: {}\n\n"
    "retry: 10\n\n"
    "event: done\r\nid: 7:4\r\ndata: {}\r\n\r\n"
    "event: output\nid: 7:5\ndata: truncated\n"
).encode()
MEANT = [
    Event("output", "Grüße, 世界 🌍", "7:0"),
    Event("output", "a\u2028b\x0bc\x85d\x1ce", "7:1"),
    Event("output", "one\ntwo\n three\n", "7:2"),
    Event("output", "", None),
    Event("surprise", "{}", "7:3"),
    Event("done", "{}", "7:4"),
]


def test_events_are_what_the_standard_says() -> None:
    assert _parse(ODD) == MEANT


def test_it_does_not_matter_where_chunks_are_cut() -> None:
    for place in range(len(ODD) + 1):
        assert _parse(ODD[:place], ODD[place:]) == MEANT, place
    for size in (1, 2, 3):
        assert _parse(*(ODD[i : i + size] for i in range(0, len(ODD), size))) == MEANT, size


def test_an_event_that_ends_in_returns_is_not_held_back() -> None:
    assert _parse(b"event: done\rdata: {}\r\r") == [Event("done", "{}")]


@pytest.mark.parametrize("end", [b"", b"\n", b"\ndata: x\n"], ids=["a line", "lines", "more lines"])
def test_memory_is_bounded_whatever_a_server_sends(end: bytes) -> None:
    parser, chunk = Parser(), b"data: " + b"x" * (1 << 20) + end

    def send() -> None:
        for _ in range(LARGEST // len(chunk) + 2):
            assert list(parser.feed(chunk)) == []

    with pytest.raises(Unstreamable, match="larger than"):
        send()


def _events(first: int, end: int, *, ids: bool = True, done: bool = False) -> str:
    said = "".join(
        f"event: output\n{f'id: 9:{number}' if ids else ': none'}\ndata: w{number} \n\n"
        for number in range(first, end)
    )
    return ": hi\n\n" + said + (f"event: done\nid: 9:{end}\ndata: {{}}\n\n" if done else "")


async def _read(events: Stream) -> tuple[list[str], int]:
    words, cuts = [], 0
    async for event in events.events():
        words += [event.data.strip()] if event.kind == "output" else []
        cuts += event.kind == CUT
    return words, cuts


def _stream(script: Script, downloads: Downloads) -> Stream:
    return Stream(downloads, f"{script.base_url}/streams/abc", pause=0.001)


def _resumed_after(request: bytes) -> str | None:
    lines = [line for line in request.decode().split("\r\n") if line.lower().startswith("last-")]
    return lines[0].partition(": ")[2] if lines else None


WORDS = [f"w{number}" for number in range(6)]


@pytest.mark.parametrize("trickle", [0, 1, 7])
async def test_a_stream_is_read_to_its_end(
    script: Script, downloads: Downloads, trickle: int
) -> None:
    script.trickle = trickle
    script.answers = [stream(_events(0, 6, done=True) + "event: output\ndata: too late\n\n")]
    assert await _read(_stream(script, downloads)) == (WORDS, 0)


async def test_a_stream_asks_for_events_and_sends_no_token(
    script: Script, downloads: Downloads
) -> None:
    script.answers = [stream(_events(0, 6, done=True))]
    await _read(_stream(script, downloads))
    assert script.lines == ["GET /streams/abc HTTP/1.1"]
    asked = script.requests[0].lower()
    assert b"accept: text/event-stream" in asked
    assert b"authorization" not in asked
    assert TOKEN.encode() not in asked
    assert b"last-event-id" not in asked


async def test_it_goes_on_after_the_last_event_wherever_the_connection_is_cut(
    script: Script, downloads: Downloads
) -> None:
    whole = _events(0, 6, done=True).encode()
    for place in range(len(whole)):
        seen = whole[:place].count(b"\n\n") - 1  # The first one ends the comment.
        rest = _events(max(seen, 0), 6, done=True)
        script.requests.clear()
        script.answers = [stream(whole[:place]), stream(rest)]
        assert await _read(_stream(script, downloads)) == (WORDS, 1), place
        assert _resumed_after(script.requests[1]) == (f"9:{seen - 1}" if seen > 0 else None), place


async def test_a_server_that_always_begins_anew_repeats_nothing(
    script: Script, downloads: Downloads
) -> None:
    script.answers = [
        stream(_events(0, 3)),
        stream(_events(0, 1)),  # Cut in the middle of what is known.
        stream(_events(0, 5)),
        stream(_events(0, 6, done=True)),
    ]
    assert await _read(_stream(script, downloads)) == (WORDS, 3)


async def test_a_server_that_begins_somewhere_before_repeats_nothing(
    script: Script, downloads: Downloads
) -> None:
    script.answers = [stream(_events(0, 4)), stream(_events(2, 6, done=True))]
    assert await _read(_stream(script, downloads)) == (WORDS, 1)


async def test_the_end_is_seen_though_all_of_the_text_was_known(
    script: Script, downloads: Downloads
) -> None:
    script.answers = [stream(_events(0, 6)), stream(_events(0, 6, done=True))]
    assert await _read(_stream(script, downloads)) == (WORDS, 1)


async def test_one_event_more_than_are_remembered_is_replayed_all_the_same(
    script: Script, downloads: Downloads
) -> None:
    script.answers = [stream(_events(0, 3000)), stream(_events(0, 3001, done=True))]
    words, _ = await _read(_stream(script, downloads))
    assert words == [f"w{number}" for number in range(3001)]


async def test_errors_and_ends_are_told_and_logs_too(script: Script, downloads: Downloads) -> None:
    detail = json.dumps({"detail": "no such colour"})
    body = (
        f"event: logs\nid: 1\ndata: line\n\nevent: error\nid: 2\ndata: {detail}\n\n"
        'event: done\nid: 3\ndata: {"reason": "error"}\n\n'
    )
    script.answers = [stream(body)]
    events = [event async for event in _stream(script, downloads).events()]
    assert [event.kind for event in events] == ["logs", "error", "done"]
    assert events[1].data == detail


@pytest.mark.parametrize(
    "passing",
    [NO_ANSWER, answer(502, "<html>"), answer(429), answer(408), stream("", status=503)],
    ids=["no answer", "502", "429", "408", "503 as a stream"],
)
async def test_passing_troubles_are_waited_out(
    script: Script, downloads: Downloads, passing: bytes
) -> None:
    script.answers = [passing, passing, stream(_events(0, 6, done=True))]
    assert await _read(_stream(script, downloads)) == (WORDS, 2)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answer(404, '{"detail": "Not found."}', "Content-Type: application/json"), "HTTP 404"),
        (stream('event: error\ndata: {"detail": "gone"}\n\n', status=404), "HTTP 404"),
        (answer(200, "<html>", "Content-Type: text/html; charset=utf-8"), "text/html"),
        (answer(200, "hello"), "of no type"),
        (answer(403), "HTTP 403"),
    ],
    ids=["404", "404 as a stream", "a web page", "no type", "403"],
)
async def test_what_is_not_a_stream_is_not_asked_again(
    script: Script, downloads: Downloads, said: bytes, words: str
) -> None:
    script.answers = [said]
    with pytest.raises(Unstreamable, match=words):
        await _read(_stream(script, downloads))
    assert len(script.requests) == 1


async def test_connections_that_bring_nothing_are_given_up(
    script: Script, downloads: Downloads
) -> None:
    script.answers = [stream(_events(0, 3))] + [stream(_events(0, 2))] * 50
    with pytest.raises(Unstreamable, match=f"{MOST_IN_VAIN} connections in a row"):
        await _read(_stream(script, downloads))
    assert len(script.requests) == 1 + MOST_IN_VAIN


async def test_events_that_are_not_output_are_no_progress(
    script: Script, downloads: Downloads
) -> None:
    script.answers = [stream("event: ping\ndata: 1\n\nevent: error\nid: 1\ndata: {}\n\n")] * 50
    with pytest.raises(Unstreamable, match=f"{MOST_IN_VAIN} connections in a row"):
        await _read(_stream(script, downloads))
    assert len(script.requests) == MOST_IN_VAIN


async def test_a_server_that_closes_an_idle_stream_is_no_trouble(
    script: Script, downloads: Downloads
) -> None:
    idle = stream(": hi\n\n:408: 408 Request Timeout\n\n")
    script.answers = [idle] * 20 + [stream(_events(0, 6, done=True))]
    assert await _read(_stream(script, downloads)) == (WORDS, 20)


async def test_without_ids_a_cut_stream_cannot_go_on(script: Script, downloads: Downloads) -> None:
    script.answers = [stream(_events(0, 3, ids=False)), stream(_events(0, 6, ids=False, done=True))]
    with pytest.raises(Unstreamable, match="without ids it cannot be resumed"):
        await _read(_stream(script, downloads))
    assert len(script.requests) == 1


async def test_events_that_lose_their_ids_after_a_cut_cannot_be_placed(
    script: Script, downloads: Downloads
) -> None:
    script.answers = [stream(_events(0, 3)), stream(_events(0, 6, ids=False, done=True))]
    with pytest.raises(Unstreamable, match="have no ids"):
        await _read(_stream(script, downloads))


async def test_without_ids_a_whole_stream_is_as_good_as_any(
    script: Script, downloads: Downloads
) -> None:
    script.answers = [stream(_events(0, 6, ids=False, done=True))]
    assert await _read(_stream(script, downloads)) == (WORDS, 0)


async def test_it_can_be_read_again_where_it_was(script: Script, downloads: Downloads) -> None:
    script.answers = [stream(_events(0, 3)), stream(_events(0, 6, done=True))]
    events = _stream(script, downloads)
    begun = events.events()
    first = [(await anext(begun)).data.strip() for _ in range(3)]
    await begun.aclose()
    assert (first, (await _read(events))[0]) == (WORDS[:3], WORDS[3:])


async def test_a_connection_without_a_byte_counts_as_lost(
    script: Script, downloads: Downloads
) -> None:
    script.answers = [stream(_events(0, 6, done=True))] * 2
    script.pauses = [5.0, 0.0]
    events = Stream(downloads, f"{script.base_url}/streams/abc", pause=0.001, idle=0.2)
    assert await _read(events) == (WORDS, 1)


async def test_an_address_that_is_none_is_said_to_be(downloads: Downloads) -> None:
    with pytest.raises(Unstreamable, match="nowhere://abc"):
        await _read(Stream(downloads, "nowhere://abc", pause=0.001))
