"""What becomes of files in an input: read, inlined or uploaded once, named when they cannot be."""

import asyncio
import base64
import gc
import hashlib
import io
import json
import logging
import os
import tempfile
import threading
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pydantic import BaseModel

from prefect_replicate import BadInputError, File, SavedFile
from prefect_replicate.api.client import Access, Client
from prefect_replicate.jobs.inputs import INLINE_EACH, INLINE_IN_ALL, prepare, takes_files
from tests.api.conftest import FAST, TOKEN, Script, answer, script

__all__ = ["script"]  # A fixture.

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
BIG = bytes(INLINE_EACH + 1)


def inline(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def stored(id: str, lives: timedelta = timedelta(hours=24)) -> bytes:
    """Replicate's answer to an upload."""
    expires = (datetime.now(UTC) + lives).isoformat()
    body = {"id": id, "urls": {"get": f"https://api/v1/files/{id}"}, "expires_at": expires}
    return answer(201, json.dumps(body))


class Pipe(io.RawIOBase):
    """Bytes that can be read once, as those of a socket."""

    def __init__(self, content: bytes) -> None:
        self.left = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), len(self.left))
        buffer[:count], self.left = self.left[:count], self.left[count:]
        return count


class Reader:
    """Has nothing but read(), and cannot be referred to weakly."""

    __slots__ = ("left",)

    def __init__(self, left: Any) -> None:
        self.left = left

    def read(self, size: int = -1) -> Any:
        piece, self.left = self.left[:size], self.left[size:]
        return piece


@pytest.fixture
async def client(script: Script) -> AsyncIterator[Client]:
    """A client of the scripted server that does not wait long between attempts."""
    async with Client(Access(script.base_url, TOKEN), policy=FAST) as client:
        yield client


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL of a storage, with a file behind it."""
    with fsspec.open("memory://inputs/cat.png", "wb") as file:
        file.write(PNG)
    yield "memory://inputs/cat.png"
    fsspec.filesystem("memory").rm("/inputs", recursive=True)


async def test_every_kind_of_file_becomes_a_url(
    client: Client,
    tmp_path: Path,
    memory: str,
) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    late = io.BytesIO(b"before" + PNG)
    late.seek(6)
    url = inline(PNG, "image/png")
    with path.open("rb") as opened, tempfile.TemporaryFile() as nameless:
        nameless.write(PNG)
        nameless.seek(0)
        given = {
            "path": path,
            "opened": opened,
            "nameless": nameless,
            "from where it stands": late,
            "bytes": PNG,
            "bytearray": bytearray(PNG),
            "memoryview": memoryview(PNG),
            "pipe": Pipe(PNG),
            "reader": Reader(PNG),
            "url": memory,
            "file url": path.as_uri(),
            "saved": SavedFile(name="cat.png", uri=str(path), size=1, sha256=""),
        }
        made = await prepare(client, given)
    assert made == dict.fromkeys(given, url)
    uploaded = File.model_validate({"id": "x", "urls": {"get": "https://api/files/x"}})
    assert await prepare(client, {"file": uploaded}) == {"file": "https://api/files/x"}


async def test_files_stand_anywhere_and_the_callers_input_stays_as_it_is(
    client: Client,
) -> None:
    given = {"images": [PNG, [PNG]], "pair": (1, PNG), "deep": {"a": {"b": [{"c": PNG}]}}}
    before = {"images": [PNG, [PNG]], "pair": (1, PNG), "deep": {"a": {"b": [{"c": PNG}]}}}
    url = inline(PNG, "image/png")
    assert await prepare(client, given) == {
        "images": [url, [url]],
        "pair": [1, url],
        "deep": {"a": {"b": [{"c": url}]}},
    }
    assert given == before


@pytest.mark.parametrize(
    "text",
    [
        "/etc/hostname",
        "./cat.png",
        "~/cat.png",
        "C:\\cat.png",
        "https://example.com/cat.png",
        "http://127.0.0.1/cat.png",
        "data:text/plain,hello",
        "nothing://known",
        "file:///etc/hostname is where the name is",
        "see s3://bucket/key",
        "S3://bucket/key",
        "s3://",
        "file:/etc/hostname",
        "",
    ],
)
async def test_any_other_string_is_text(client: Client, text: str) -> None:
    async def never() -> None:
        raise AssertionError("the schema was asked for")

    given = {"text": text, "more": [text, 1, 1.5, None, True]}
    assert await prepare(client, given, never) == given


async def test_the_schema_decides_whether_a_url_is_a_file(client: Client, memory: str) -> None:
    properties = {
        "text": {"type": "string"},
        "image": {"type": "string", "format": "uri"},
        "images": {"type": "array", "items": {"anyOf": [{"$ref": "#/components/schemas/A"}]}},
    }
    document = {
        "components": {
            "schemas": {
                "Input": {"properties": properties},
                "TrainingInput": {"properties": {"text": {"format": "uri"}}},
                "A": {"allOf": [{"type": "string", "format": "uri"}]},
            }
        }
    }

    async def schema() -> Mapping[str, Any]:
        return document

    url = inline(PNG, "image/png")
    given = {"text": memory, "image": memory, "images": [memory], "unknown": memory}
    assert await prepare(client, given, schema) == {
        "text": memory,
        "image": url,
        "images": [url],
        "unknown": memory,
    }
    training = await prepare(client, {"text": memory}, schema, "TrainingInput")
    assert training == {"text": url}
    # Without one, the URL is all there is to go by.
    assert await prepare(client, {"text": memory}) == {"text": url}


def test_a_schema_may_refer_to_itself_or_be_nonsense() -> None:
    tree = {"properties": {"leaf": {"format": "uri"}, "next": {"$ref": "#/components/schemas/T"}}}
    loop = {"anyOf": [{"$ref": "#/components/schemas/L"}]}
    schemas = {"T": tree, "L": loop, "N": {"properties": {"x": 5, "y": {"$ref": "nowhere"}}}}
    document = {"components": {"schemas": schemas}}
    assert takes_files(document, "T", ("next", "next", "leaf"))
    assert not takes_files(document, "T", ("next", "next"))
    assert not takes_files(document, "L", ("x",))
    assert not takes_files(document, "N", ("x",))
    assert not takes_files(document, "N", ("y",))
    assert takes_files(document, "Input", ("x",))
    assert takes_files({"components": 5}, "Input", ("x",))


async def test_small_files_go_inline_and_others_are_uploaded(
    client: Client,
    script: Script,
    tmp_path: Path,
) -> None:
    script.answers = [stored("big")]
    (tmp_path / "small.bin").write_bytes(BIG[:-1])
    (tmp_path / "big.txt").write_bytes(BIG)
    made = await prepare(client, {"a": tmp_path / "small.bin", "b": tmp_path / "big.txt"})
    assert made["a"] == inline(BIG[:-1], "application/octet-stream")
    assert made["b"] == "https://api/v1/files/big"
    (sent,) = script.requests
    assert script.lines == ["POST /v1/files HTTP/1.1"]
    assert b'filename="big.txt"\r\nContent-Type: text/plain\r\n\r\n' + BIG in sent


async def test_small_files_that_are_much_together_are_uploaded_too(
    client: Client,
    script: Script,
) -> None:
    script.answers = [stored("last")]
    parts = [bytes([number]) * (INLINE_IN_ALL // 4) for number in range(5)]
    made = await prepare(client, {"parts": parts})
    assert [part[:5] for part in made["parts"]] == ["data:"] * 4 + ["https"]
    assert parts[4] in script.requests[0]


async def test_equal_files_are_uploaded_once(
    client: Client,
    script: Script,
    tmp_path: Path,
) -> None:
    (tmp_path / "big").write_bytes(BIG)
    one = io.BytesIO(BIG)
    one.name = "big"
    script.answers = [stored("big")]
    given = {"image": tmp_path / "big", "same": [tmp_path / "big", one]}
    url = "https://api/v1/files/big"
    made = await asyncio.gather(*(prepare(client, given) for _ in range(20)))
    assert made == [{"image": url, "same": [url, url]}] * 20
    assert script.lines == ["POST /v1/files HTTP/1.1"]


async def test_what_was_uploaded_before_is_used_again_while_it_is_there(
    client: Client,
    script: Script,
) -> None:
    script.answers = [
        *(stored("one"), stored("one")),
        *(answer(404), stored("two", timedelta(minutes=5))),
        stored("three"),
        *(stored("three", timedelta(minutes=5)), stored("four")),
    ]
    ids = [(await prepare(client, {"x": BIG}))["x"].rpartition("/")[2] for _ in range(5)]
    assert ids == ["one", "one", "two", "three", "four"]
    assert [line.split()[:2] for line in script.lines] == [
        ["POST", "/v1/files"],  # new
        ["GET", "/v1/files/one"],  # there
        ["GET", "/v1/files/one"],  # deleted
        ["POST", "/v1/files"],
        ["POST", "/v1/files"],  # known to end soon, so not looked for
        ["GET", "/v1/files/three"],  # it now says that it ends soon
        ["POST", "/v1/files"],
    ]


async def test_another_name_is_another_file(
    client: Client,
    script: Script,
    tmp_path: Path,
) -> None:
    script.answers = [stored("a"), stored("b")]
    for name in ("x.wav", "x.txt"):
        (tmp_path / name).write_bytes(BIG)
    made = await prepare(client, {"wav": tmp_path / "x.wav"})
    made |= await prepare(client, {"txt": tmp_path / "x.txt"})
    assert len(set(made.values())) == 2


@pytest.mark.parametrize("pipe", [False, True])
async def test_a_file_object_serves_every_attempt(
    client: Client,
    script: Script,
    pipe: bool,
) -> None:
    file: Any = Pipe(BIG) if pipe else io.BytesIO(b"no" + BIG)
    if not pipe:
        file.seek(2)
    script.answers = [answer(422), stored("x"), stored("x")]
    with pytest.raises(BadInputError):
        await prepare(client, {"x": file})
    for _ in range(2):
        assert await prepare(client, {"x": file}) == {"x": "https://api/v1/files/x"}
    assert BIG in script.requests[1]
    assert pipe or file.tell() == 2


async def test_a_file_object_serves_many_inputs_at_once(
    client: Client,
) -> None:
    content = os.urandom(200_000)
    for file in (io.BytesIO(content), io.BufferedReader(Pipe(content))):
        made = await asyncio.gather(*(prepare(client, {"x": file}) for _ in range(30)))
        assert made == [{"x": inline(content, "application/octet-stream")}] * 30


@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="sees open files as Linux shows them"
)
async def test_what_was_kept_of_a_pipe_goes_with_it(client: Client, script: Script) -> None:
    script.answers = [answer(422)]
    gc.collect()
    pipe, before = Pipe(BIG), _temporary_files()
    with pytest.raises(BadInputError):
        await prepare(client, {"x": pipe})
    assert _temporary_files() == before + 1
    del pipe
    await asyncio.sleep(0.1)
    gc.collect()
    assert _temporary_files() == before


def _temporary_files() -> int:
    """How many files this process has open that have no name any more."""
    found = 0
    for number in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += str(number.readlink()).endswith("(deleted)")
    return found


class _Broken(Pipe):
    def readinto(self, buffer: Any) -> int:
        if len(self.left) < len(BIG):
            raise OSError("the line was cut")
        return super().readinto(buffer[:100])


async def test_the_rest_of_a_broken_pipe_never_passes_for_the_whole(
    client: Client,
) -> None:
    broken = _Broken(BIG)
    for _ in range(2):
        with pytest.raises(BadInputError, match=r"input\.x: Cannot read .*the line was cut"):
            await prepare(client, {"x": broken})


class Point(BaseModel):
    x: int = 1


@pytest.mark.parametrize(
    ("given", "where", "words"),
    [
        ({"a": Path("/no/such.png")}, "input.a", "Cannot read '/no/such.png'"),
        ({"a": [1, Path("/no")]}, "input.a[1]", "Cannot read '/no'"),
        ({"a": {"b": [Path("/tmp")]}}, "input.a.b[0]", "not a file"),  # noqa: S108 - a folder
        ({"a": Path("/dev/zero")}, "input.a", "not a file"),
        ({"a": "memory://no/such"}, "input.a", "Cannot read 'memory://no/such'"),
        ({"a": "file:///tmp"}, "input.a", "Cannot read 'file:///tmp'"),
        ({"a": io.StringIO("x")}, "input.a", "mode 'rb'"),
        ({"a": Reader("text")}, "input.a", "gives str"),
        ({"a": Reader([1, 2])}, "input.a", "gives list"),
        ({"a": Pipe(b"")}, "input.a", "at its end"),
        ({"a": Point()}, "input.a", "type Point"),
        ({"a": [{"b": {1, 2}}]}, "input.a[0].b", "type set"),
        ({"a": datetime.now(UTC)}, "input.a", "type datetime"),
        ({"a": float("nan")}, "input.a", "nan"),
    ],
)
async def test_what_cannot_be_sent_is_named_with_its_place(
    client: Client,
    script: Script,
    given: dict[str, Any],
    where: str,
    words: str,
) -> None:
    with pytest.raises(BadInputError) as caught:
        await prepare(client, {"first": BIG, **given})
    assert str(caught.value).startswith((f"{where}:", f"{where} "))
    assert words in str(caught.value)
    assert script.requests == []


async def test_odd_file_objects_are_refused(client: Client, tmp_path: Path) -> None:
    read_to_the_end = io.BytesIO(PNG)
    read_to_the_end.read()
    with pytest.raises(BadInputError, match=r"at its end.*seek\(0\)"):
        await prepare(client, {"x": read_to_the_end})
    closed = io.BytesIO(PNG)
    closed.close()
    with pytest.raises(BadInputError, match="closed"):
        await prepare(client, {"x": closed})
    with (tmp_path / "out").open("wb") as out, pytest.raises(BadInputError, match=r"input\.x"):
        await prepare(client, {"x": out})
    assert await prepare(client, {"x": io.BytesIO()}) == {
        "x": inline(b"", "application/octet-stream")
    }


async def test_an_input_that_holds_itself_is_refused(
    client: Client,
) -> None:
    given: dict[str, Any] = {}
    given["me"] = given
    with pytest.raises(BadInputError, match="holds itself"):
        await prepare(client, given)


async def test_a_file_that_replicate_would_refuse_is_not_sent(
    client: Client,
    script: Script,
    tmp_path: Path,
) -> None:
    huge = tmp_path / "huge.bin"
    with huge.open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(BadInputError, match=r"input\.b: 'huge.bin' has 100 MB.*https URL"):
        await prepare(client, {"a": BIG, "b": huge})
    assert script.requests == []


async def test_reading_does_not_hold_up_the_loop_and_ends_when_nobody_wants_it(
    client: Client,
) -> None:
    go, asked = threading.Event(), threading.Event()

    class Slow(Pipe):
        def readinto(self, buffer: Any) -> int:
            asked.set()
            go.wait(30)
            return super().readinto(buffer)

    slow = Slow(PNG)
    reading = asyncio.ensure_future(prepare(client, {"x": slow}))
    while not asked.is_set():
        await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    again = asyncio.ensure_future(prepare(client, {"x": slow}))
    await asyncio.sleep(0.05)
    go.set()
    assert await again == {"x": inline(PNG, "image/png")}


@pytest.mark.parametrize(
    ("name", "content", "kind", "called"),
    [
        ("a.tar.gz", b"", "application/gzip", "a.tar.gz"),
        ("a.txt.xz", b"", "application/octet-stream", "a.txt.xz"),
        ("a.txt", PNG, "text/plain", "a.txt"),
        ("a", PNG, "image/png", "a.png"),
        ("a", b"\xff\xd8\xff\xe0", "image/jpeg", "a.jpg"),
        ("a", b"GIF89a", "image/gif", "a.gif"),
        ("a", b"RIFF\x0a\x00\x00\x00WEBPVP8", "image/webp", "a.webp"),
        ("a", b"RIFF\x00\x00\x00\x00WAVEfmt", "audio/wav", "a.wav"),
        ("a", b"ID3\x04", "audio/mpeg", "a.mp3"),
        ("a", b"\x00\x00\x00\x18ftypisom", "video/mp4", "a.mp4"),
        ("a", b"%PDF-1.7", "application/pdf", "a.pdf"),
        ("a", b"nothing in particular", "application/octet-stream", "a"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_the_media_type_is_that_of_the_name_or_of_the_first_bytes(
    client: Client,
    script: Script,
    tmp_path: Path,
    name: str,
    content: bytes,
    kind: str,
    called: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    small = await prepare(client, {"x": tmp_path / name})
    assert small == {"x": inline(content, kind)}
    (tmp_path / name).write_bytes(content + BIG)
    script.answers = [stored("x")]
    await prepare(client, {"x": tmp_path / name})
    said = f'filename="{called}"\r\nContent-Type: {kind}\r\n'
    assert said.encode() in script.requests[0]


async def test_no_secret_is_in_a_message(client: Client) -> None:
    url = "ftp://user:word@127.0.0.1:9/k.png?signature=abc"
    with pytest.raises(
        BadInputError, match=r"input\.x: Cannot read 'ftp://127\.0\.0\.1:9/k\.png'"
    ) as caught:
        await prepare(client, {"x": url})
    told = "".join(traceback.format_exception(caught.value))
    assert "user:word" not in told
    assert "signature=abc" not in told


async def test_an_upload_is_one_line_in_the_log(
    client: Client,
    script: Script,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = hashlib.sha256(b"content").hexdigest().encode() * 5000
    script.answers = [stored("x")]
    with caplog.at_level(logging.DEBUG, "prefect.prefect_replicate"):
        await prepare(client, {"x": secret})
    ours = [r.getMessage() for r in caplog.records if r.name.endswith("prefect_replicate")]
    assert ours == ["Uploaded file (320000 bytes)"]
    assert secret[:64].decode() not in caplog.text
    assert TOKEN not in caplog.text
